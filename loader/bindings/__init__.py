"""Ready-made bindings: capabilities that a host grants a tenant, each scoped when it is made.

What a tenant may call are public methods; whose data they reach follows from the object it was given, never from what
it says. Each stands on something embedded: SQLite, a folder, the network of the host.
"""

from .fetcher import Egress, Fetcher, FetchLimits
from .rules import Rule
from .secrets import Secrets, SecretText, secret_header

__all__ = ["Egress", "FetchLimits", "Fetcher", "Rule", "SecretText", "Secrets", "secret_header"]
