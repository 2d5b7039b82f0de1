"""How tenants are confined and how much they may use: values that are checked once, when they are made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

MIB: Final = 1 << 20
MOST_THREADS: Final = 64
MOST_OPEN_FILES: Final = 64
_MAY_BE_NONE: Final = {"cpu_ms", "wall_ms", "subrequests"}
_RANGES: Final = {
    "memory_bytes": (16 * MIB, None),  # an interpreter needs that much to work
    "threads": (1, MOST_THREADS),
    "open_files": (16, MOST_OPEN_FILES),  # the connection, the event loop's, and a few
    "calls_in_flight": (1, 1024),
    "bytes_per_second": (MIB, None),
    "output_bytes_per_second": (1024, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant's code may use. `None` means that nothing is enforced.

    Crossing `subrequests` or `calls_in_flight` is an error in the tenant's code, crossing `output_bytes_per_second`
    costs lines; whatever crosses another of these is ended, and the caller gets `LimitExceeded`.
    """

    cpu_ms: int | None = 30_000
    """CPU time of one invocation, or of one call of a function or object that the code has given to somebody. For a
    durable run: of each stretch between two records. What goes on in a sandbox while it answers nothing may use as
    much."""
    wall_ms: int | None = 60_000
    """Time until one invocation has answered. A durable run has none; its steps have their own timeouts."""
    subrequests: int | None = 10_000
    """Calls that one invocation may make to capabilities, with the same stretches as `cpu_ms`. What goes on in a
    sandbox while it answers nothing may make as many in ten minutes."""
    memory_bytes: int = 128 * MIB
    """What one sandbox may use beyond the bare interpreter."""
    threads: int = 32
    """Threads of one sandbox, its main one included. One more is an error in the tenant's code, and the end of the
    sandbox where no control group counts them. Each sets aside 2 MiB of `memory_bytes` for its stack, unless the
    tenant asks for another size with `threading.stack_size`."""
    open_files: int = MOST_OPEN_FILES
    """Descriptors of one sandbox: pipes and events, since nothing can be opened."""
    calls_in_flight: int = 1024
    """Calls to the host that one sandbox may wait for at once."""
    bytes_per_second: int = 64 * MIB
    """What one sandbox may send, and be sent in answers; beyond that it has to wait. Small messages count as 6 KiB,
    answers of its own excepted. Of what nobody waits for, such as lines of a log, it may send a quarter of that, and is
    ended beyond."""
    output_bytes_per_second: int = MIB
    """What of its printing and logging is taken; the rest is dropped and counted."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in _MAY_BE_NONE:
                continue
            low, high = _RANGES.get(field.name, (1, None))
            if type(value) is not int or value < 1:
                raise ValueError(f"Limits.{field.name} must be a whole number above zero, not {value!r}")
            if value < low or (high is not None and value > high):
                bounds = f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
                raise ValueError(f"Limits.{field.name} must be {bounds}, not {value:,}")

    def without_wall(self) -> Limits:
        """The same for a durable run, which may take days."""
        return replace(self, wall_ms=None)

    def lower_of(self, other: Limits | None) -> Limits:
        """The stricter of the two in each respect."""
        if other is None:
            return self
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        lower: dict[str, Any] = {name: min(filter(None, pair), default=None) for name, pair in pairs.items()}
        return Limits(**lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How sandboxes are confined.

    `isolation="strict"` refuses to start where a layer is missing, and says which; `"standard"` goes on as long as
    the filter, Landlock and resource limits are there. Below that nothing untrusted runs at all.
    """

    isolation: Literal["strict", "standard"] = "standard"
    preload: tuple[str, ...] = ()
    """Modules of the host's that every sandbox finds imported, such as `("numpy",)`. What a tenant cannot bring along
    because it is not written in Python has to be here, or in the `preload` of its code."""
    most_spares: int | None = None
    """How far the number of blank sandboxes may rise above the `spares` that were asked for while they are taken fast.
    `None`: sixteen for each core, in no more than a 64th of the machine's memory. With `spares=0` there are none."""
    rotate_after_sandboxes: int | None = 10_000
    """How many sandboxes are forked from one zygote, which share its address layout and hash seed, before the next one
    takes over for new ones. `None`: any number."""
    rotate_after_s: int | None = 3_600
    """The same in seconds since the zygote was started; one that has forked nothing stays."""

    def __post_init__(self) -> None:
        check_preload("Policy.preload", self.preload)
        for name, least in (("most_spares", 0), ("rotate_after_sandboxes", 1), ("rotate_after_s", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"Policy.{name} must be None or a whole number from {least} up, not {value!r}")
        if self.isolation not in {"strict", "standard"}:
            raise ValueError(f"Policy.isolation is 'strict' or 'standard', not {self.isolation!r}")


def check_preload(what: str, names: object) -> None:
    """Names of modules, in a tuple. `ValueError`."""
    if names == ():
        return
    if not isinstance(names, tuple) or not all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names
    ):
        raise ValueError(f"{what} is a tuple of names of modules, not {names!r:.80}")
