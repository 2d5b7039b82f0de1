"""How large everything in a loader is: each number in one place, with a default that this machine can bear.

It knows what a machine has, and nothing of what is done with the numbers.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from .quota import Quota

_MIB: Final = 1 << 20
_SANDBOX_BYTES: Final = 8 * _MIB
"""What a warm tenant is reckoned at before any was measured: three times what a small one takes."""
_DESCRIPTORS: Final = 4
"""Of the host's descriptors, what one sandbox takes at most."""
_OWN_DESCRIPTORS: Final = 128
_MOST_SANDBOXES: Final = 4096
_GROUP_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """Numbers for `Loader(config=...)` and `Host(config=...)`. Seconds, bytes and counts."""

    max_sandboxes: int = field(default_factory=lambda: sandboxes_here())
    """Sandboxes that are warm at once, of all tenants. As many as half of the memory holds, at 8 MiB each, and as the
    descriptors that this process may open are enough for; 4,096 at most."""
    memory_bytes: int = field(default_factory=lambda: memory_here() // 2)
    """What all of them may take together, as measured. Half of the machine's memory, or of the control group's."""
    spares: int = field(default_factory=lambda: 2 * cores())
    """Blank sandboxes that are kept at least. Two for each core."""
    sandboxes_per_tenant: int = field(default_factory=lambda: cores())
    """How many one tenant and version may have at once. One for each core."""
    calls_per_sandbox: int = 64
    """Calls in flight in each sandbox of a tenant from which on it gets another one. One that keeps a core busy counts
    as full with its first call."""
    idle_s: float = 30.0
    """How long a tenant's second and further sandboxes may be idle before they end. The last one stays until its room
    is needed."""
    admission_timeout: float = 30.0
    """How long a call waits for a turn, for room or for a boot before `NoCapacity`."""
    boots_at_once: int = field(default_factory=lambda: 4 * cores())
    """Boots that go on at once; of those that wait, tenants take turns by weight. Four for each core."""
    calls_at_once: int = 4096
    """Direct calls in flight, of all tenants; of those that wait, tenants take turns by weight."""
    backoff_s: float = 0.05
    """How long a tenant is left alone after a load that failed; twice as long after each further failure."""
    backoff_most_s: float = 30.0
    """The longest of those times."""
    backoff_wait_s: float = 0.25
    """A call waits by itself for a load that may be tried again within so long, and is refused otherwise."""
    restarts_free: int = 2
    """How many of its sandboxes in a row a tenant may bring to an end (by crossing a limit, breaking the protocol,
    crashing) and have the next one at once."""
    restart_s: float = 0.25
    """How long it waits for the next one after that; twice as long each time."""
    restart_most_s: float = 10.0
    """The longest of those times."""
    restart_forgiven_s: float = 5.0
    """After how long without another one such end is forgotten."""
    profile_idle_s: float = 300.0
    """After how long without any sandbox in use the zygote of a runtime profile ends. It is started again on demand."""
    background_s: float = 30.0
    """For how long work that was given to `wait_until` keeps its sandbox from being evicted."""
    look_every_s: float = 5.0
    """Between two looks at how much memory sandboxes take and which of them are idle."""
    drain_s: float = 10.0
    """How long a host that is told to stop lets go on what is going on."""
    remembered: int = 10_000
    """Tenants and versions of which it is remembered what their code was, and how often it failed to load."""
    quota: Quota = field(default_factory=Quota)
    """That of each tenant for which `quotas` gives no other."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, least = getattr(self, entry.name), _LEAST.get(entry.name, 1)
            if entry.name == "quota":
                continue
            whole = isinstance(least, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
                kind = "a whole number" if whole else "a number of seconds"
                raise ValueError(f"LoaderConfig.{entry.name} must be {kind}, at least {least}, not {value!r}")
        if not isinstance(self.quota, Quota):
            raise ValueError(f"LoaderConfig.quota must be a Quota, not {type(self.quota).__name__}")


_LEAST: Final[dict[str, int | float]] = {
    "spares": 0, "memory_bytes": 16 * _MIB, "idle_s": 0.0, "admission_timeout": 0.0, "backoff_s": 0.0,
    "backoff_most_s": 0.0, "backoff_wait_s": 0.0, "background_s": 0.0, "look_every_s": 0.01, "drain_s": 0.0,
    "profile_idle_s": 0.0, "restarts_free": 0, "restart_s": 0.0, "restart_most_s": 0.0, "restart_forgiven_s": 0.01,
}  # fmt: skip


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_here() -> int:
    """Bytes of the machine's memory, or of what the control group leaves of it."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in _GROUP_LIMITS:
        try:
            found = min(found, int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return found


def sandboxes_here() -> int:
    """How many warm ones this machine can bear."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        descriptors = _MOST_SANDBOXES * _DESCRIPTORS + _OWN_DESCRIPTORS
    most = min(memory_here() // 2 // _SANDBOX_BYTES, (descriptors - _OWN_DESCRIPTORS) // _DESCRIPTORS, _MOST_SANDBOXES)
    return max(most, 8)
