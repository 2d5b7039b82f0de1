"""The book: the movements in the order of posting, and the quantities that follow from them."""

from collections import Counter
from collections.abc import Iterable

from ledger.movements import Movement


class OutOfStock(Exception):
    """More was to go out than there is; nothing was posted."""

    def __init__(self, item: str, wanted: int, on_hand: int) -> None:
        super().__init__(f"{wanted} {item} wanted, {on_hand} on hand")
        self.item = item
        self.wanted = wanted
        self.on_hand = on_hand


class Book:
    """Movements are only ever added, and the quantity of no item is ever below zero."""

    def __init__(self, movements: Iterable[Movement] = ()) -> None:
        self._movements: list[Movement] = []
        self._on_hand: Counter[str] = Counter()
        self.post(*movements)

    def post(self, *movements: Movement) -> None:
        """Add `movements` in their order: all of them, or on OutOfStock none."""
        on_hand = Counter(self._on_hand)
        for movement in movements:
            if on_hand[movement.item] + movement.change < 0:
                raise OutOfStock(movement.item, movement.quantity, on_hand[movement.item])
            on_hand[movement.item] += movement.change
        self._movements.extend(movements)
        self._on_hand = on_hand

    def on_hand(self, item: str) -> int:
        """Return how many of `item` there are: 0 for one that was never seen."""
        return self._on_hand[item]

    def items(self) -> list[str]:
        """Return the items that are in stock, by name."""
        return sorted(item for item, quantity in self._on_hand.items() if quantity)

    def history(self, item: str) -> list[Movement]:
        """Return the movements of `item`, oldest first."""
        return [movement for movement in self._movements if movement.item == item]
