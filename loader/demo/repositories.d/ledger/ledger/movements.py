"""Stock movements as values, and the one-line notation in which people write them.

A journal in that notation has one movement on each line:

    receive    bolt-m8  200 @ 0.12
    ship       bolt-m8   50
    write-off  bolt-m8    3   # rusty
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum


class MovementError(ValueError):
    """A movement that cannot have happened, or a line that describes none."""


class Kind(Enum):
    """Why the quantity on hand changed."""

    RECEIVE = "receive"
    SHIP = "ship"
    WRITE_OFF = "write-off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """So many pieces of one item came in, at a cost each, or went out."""

    kind: Kind
    item: str
    quantity: int
    unit_cost: Decimal | None = None

    def __post_init__(self) -> None:
        if self.quantity <= 0:
            raise MovementError(
                f"{self.quantity} is no quantity of {self.item}: it must be positive"
            )
        if self.kind is Kind.RECEIVE and self.unit_cost is None:
            raise MovementError(f"what did the {self.quantity} {self.item} cost?")
        if self.kind is not Kind.RECEIVE and self.unit_cost is not None:
            raise MovementError(f"the cost of {self.item} is known from when it was received")
        if self.unit_cost is not None and self.unit_cost < 0:
            raise MovementError(f"the cost of {self.item} must not be negative")

    @property
    def change(self) -> int:
        """By how much the quantity on hand changes."""
        return self.quantity if self.kind is Kind.RECEIVE else -self.quantity


_LINE = re.compile(
    r"(?P<kind>[a-z-]+)\s+(?P<item>[a-z0-9][a-z0-9-]*)\s+(?P<quantity>\d+)"
    r"(\s*@\s*(?P<unit_cost>\d+(\.\d+)?))?",
    re.ASCII,
)


def parse(line: str) -> Movement:
    """Return the movement that `line` describes."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise MovementError(f"not a movement: {line.strip()!r}")
    if found["kind"] not in {kind.value for kind in Kind}:
        raise MovementError(f"unknown kind of movement: {found['kind']!r}")
    return Movement(
        kind=Kind(found["kind"]),
        item=found["item"],
        quantity=int(found["quantity"]),
        unit_cost=Decimal(found["unit_cost"]) if found["unit_cost"] else None,
    )


def parse_journal(text: str) -> list[Movement]:
    """Return the movements of a journal; empty lines and comments after `#` are skipped."""
    movements = []
    for number, line in enumerate(text.splitlines(), start=1):
        if content := line.partition("#")[0].strip():
            try:
                movements.append(parse(content))
            except MovementError as error:
                raise MovementError(f"line {number}: {error}") from error
    return movements
