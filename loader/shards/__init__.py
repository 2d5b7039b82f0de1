"""One host on several cores: tenants are divided among processes, each with a database file of its own.

`front` is what a service holds, `keeper` how it keeps one shard's process alive, `process` that process, `door` what is
asked of the host in there, and `told` how exceptions come back from it.
"""

from .front import Shards
from .place import Shard

__all__ = ["Shard", "Shards"]
