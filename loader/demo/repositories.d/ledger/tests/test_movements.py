"""The notation, and which movements can have happened."""

from decimal import Decimal
from unittest import TestCase

from ledger import Kind, Movement, MovementError, parse, parse_journal


class TestParse(TestCase):
    def test_receipt_has_a_cost(self) -> None:
        movement = parse("receive bolt-m8 200 @ 0.12")
        self.assertEqual(movement.kind, Kind.RECEIVE)
        self.assertEqual(movement.item, "bolt-m8")
        self.assertEqual(movement.change, 200)
        self.assertEqual(movement.unit_cost, Decimal("0.12"))

    def test_what_leaves_counts_against_the_stock(self) -> None:
        self.assertEqual(parse("ship bolt-m8 50").change, -50)
        self.assertEqual(parse("write-off bolt-m8 3").change, -3)

    def test_space_is_free(self) -> None:
        self.assertEqual(parse("  receive   nut  1@2 "), parse("receive nut 1 @ 2"))

    def test_what_cannot_have_happened_is_refused(self) -> None:
        for line, words in {
            "receive nut 5": "what did the 5 nut cost",
            "ship nut 5 @ 2": "known from when it was received",
            "ship nut 0": "must be positive",
            "eat nut 5": "unknown kind of movement: 'eat'",
            "ship nut five": "not a movement",
            "ship nut -5": "not a movement",
        }.items():
            with self.subTest(line=line), self.assertRaisesRegex(MovementError, words):
                parse(line)

    def test_negative_cost_is_refused(self) -> None:
        with self.assertRaisesRegex(MovementError, "must not be negative"):
            Movement(kind=Kind.RECEIVE, item="nut", quantity=1, unit_cost=Decimal(-1))


class TestParseJournal(TestCase):
    def test_comments_and_empty_lines_are_skipped(self) -> None:
        journal = "# Monday\n\nreceive nut 5 @ 2   # from the corner shop\nship nut 1\n"
        self.assertEqual([movement.change for movement in parse_journal(journal)], [5, -1])

    def test_a_fault_names_its_line(self) -> None:
        with self.assertRaisesRegex(MovementError, "^line 2: not a movement"):
            parse_journal("ship nut 1\nship nut\n")
