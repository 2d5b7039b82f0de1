"""Ready-made bindings: capabilities that a host grants a tenant, each scoped when it is made.

What a tenant may call are public methods; whose data they reach follows from the object it was given, never from what
it says. Each stands on something embedded: SQLite, a folder, the network of the host.
"""

from .bucket import Bucket
from .consumer import Consumer, Delivering
from .databases import Database, DatabaseLimits, Databases, SqlError
from .durable import DurableObjectNamespace, DurableObjects
from .exchange import Egress
from .fetcher import Fetcher
from .keys import KeyValue, KeyValueStore
from .lines import StoreClosed
from .network import FetchLimits, Network
from .objects import ObjectStore
from .queues import Queue, QueueStore
from .rules import Rule
from .secrets import Secrets, SecretText, secret_header
from .shelf import StorageQuota
from .storage import Storage, StorageQuotaExceeded
from .tools import Tools

__all__ = [
    "Bucket",
    "Consumer",
    "Database",
    "DatabaseLimits",
    "Databases",
    "Delivering",
    "DurableObjectNamespace",
    "DurableObjects",
    "Egress",
    "FetchLimits",
    "Fetcher",
    "KeyValue",
    "KeyValueStore",
    "Network",
    "ObjectStore",
    "Queue",
    "QueueStore",
    "Rule",
    "SecretText",
    "Secrets",
    "SqlError",
    "Storage",
    "StorageQuota",
    "StorageQuotaExceeded",
    "StoreClosed",
    "Tools",
    "secret_header",
]
