"""What the stock of one item is worth, and what the part that left has cost.

First in, first out: what leaves is taken from the oldest lot that still has pieces. Money is
Decimal and only ever multiplied by whole numbers and added, so no sum below 28 digits is rounded.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from ledger.movements import Kind, Movement, MovementError


@dataclass(frozen=True, slots=True)
class Valuation:
    """The cost of all that was ever received, by where it is now."""

    in_stock: Decimal
    shipped: Decimal
    written_off: Decimal

    @property
    def received(self) -> Decimal:
        """The sum of the three: no money appears or vanishes."""
        return self.in_stock + self.shipped + self.written_off


@dataclass(slots=True)
class _Lot:
    quantity: int
    unit_cost: Decimal


def value_first_in_first_out(history: Iterable[Movement]) -> Valuation:
    """Return the valuation of one item's movements, oldest first."""
    lots: deque[_Lot] = deque()
    gone = {Kind.SHIP: Decimal(0), Kind.WRITE_OFF: Decimal(0)}
    for movement in history:
        if movement.unit_cost is not None:
            lots.append(_Lot(movement.quantity, movement.unit_cost))
        else:
            gone[movement.kind] += _take(lots, movement.quantity)
    in_stock = sum((lot.quantity * lot.unit_cost for lot in lots), start=Decimal(0))
    return Valuation(in_stock, gone[Kind.SHIP], gone[Kind.WRITE_OFF])


def _take(lots: deque[_Lot], quantity: int) -> Decimal:
    """Remove `quantity` pieces from the oldest lots and return what they have cost."""
    cost = Decimal(0)
    while quantity:
        if not lots:
            raise MovementError(f"{quantity} more went out than ever came in")
        oldest = lots[0]
        taken = min(quantity, oldest.quantity)
        cost += taken * oldest.unit_cost
        quantity -= taken
        oldest.quantity -= taken
        if not oldest.quantity:
            lots.popleft()
    return cost
