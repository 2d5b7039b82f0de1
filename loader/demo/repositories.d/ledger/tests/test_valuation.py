"""First in, first out: worked examples, and that money is conserved whatever happens."""

import random
from decimal import Decimal
from unittest import TestCase

from ledger import (
    Book,
    Kind,
    Movement,
    MovementError,
    Valuation,
    parse_journal,
    value_first_in_first_out,
)


class TestExamples(TestCase):
    def value(self, journal: str) -> Valuation:
        return value_first_in_first_out(parse_journal(journal))

    def test_what_leaves_comes_from_the_oldest_lot(self) -> None:
        valuation = self.value("receive nut 10 @ 1\nreceive nut 10 @ 2\nship nut 12")
        self.assertEqual(valuation.shipped, 10 * 1 + 2 * 2)
        self.assertEqual(valuation.in_stock, 8 * 2)

    def test_losses_are_kept_apart_from_sales(self) -> None:
        valuation = self.value("receive nut 10 @ 0.10\nwrite-off nut 3\nship nut 2")
        expected = Valuation(Decimal("0.50"), shipped=Decimal("0.20"), written_off=Decimal("0.30"))
        self.assertEqual(valuation, expected)

    def test_a_lot_that_is_used_up_leaves_the_next(self) -> None:
        valuation = self.value("receive nut 1 @ 5\nship nut 1\nreceive nut 1 @ 7\nship nut 1")
        self.assertEqual(valuation, Valuation(Decimal(0), Decimal(12), Decimal(0)))

    def test_what_never_came_in_cannot_go_out(self) -> None:
        with self.assertRaisesRegex(MovementError, "2 more went out than ever came in"):
            self.value("receive nut 1 @ 5\nship nut 3")

    def test_no_history_is_worth_nothing(self) -> None:
        self.assertEqual(self.value("").received, 0)


class TestConservation(TestCase):
    def test_random_histories_neither_make_nor_lose_money(self) -> None:
        source = random.Random(1918)
        for run in range(400):
            book = Book()
            paid = Decimal(0)
            for _ in range(60):
                movement = self.random_movement(source, book.on_hand("nut"))
                paid += movement.quantity * (movement.unit_cost or 0)
                book.post(movement)
            with self.subTest(run=run):
                valuation = value_first_in_first_out(book.history("nut"))
                self.assertEqual(valuation.received, paid)
                self.assertEqual(valuation.in_stock == 0, book.on_hand("nut") == 0)

    def random_movement(self, source: random.Random, on_hand: int) -> Movement:
        kind = source.choice(list(Kind)) if on_hand else Kind.RECEIVE
        if kind is Kind.RECEIVE:
            cost = Decimal(source.randint(1, 9_999)).scaleb(-2)
            return Movement(kind=kind, item="nut", quantity=source.randint(1, 500), unit_cost=cost)
        return Movement(kind=kind, item="nut", quantity=source.randint(1, on_hand))
