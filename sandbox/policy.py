"""How tenants are confined and how much they may use: values that are checked once, when they are made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant's code may use. `None` means that nothing is enforced."""

    cpu_ms: int | None = 30_000
    """CPU time of one invocation. For a durable run: of each stretch between two records."""
    wall_ms: int | None = 60_000
    """Time until one invocation has answered. A durable run has none; its steps have their own timeouts."""
    memory_bytes: int = 128 * MIB
    """What one sandbox may use beyond the bare interpreter."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in {"cpu_ms", "wall_ms"}:
                continue
            if type(value) is not int or value <= 0:
                raise ValueError(f"Limits.{field.name} must be a whole number above zero, not {value!r}")
        if self.memory_bytes < 16 * MIB:
            raise ValueError("Limits.memory_bytes must be at least 16 MiB; an interpreter needs that much to work")

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

    def __post_init__(self) -> None:
        if self.isolation not in {"strict", "standard"}:
            raise ValueError(f"Policy.isolation is 'strict' or 'standard', not {self.isolation!r}")
