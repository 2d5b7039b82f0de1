"""Quantities, and that a book never goes below zero."""

from unittest import TestCase

from ledger import Book, OutOfStock, parse, parse_journal


class TestBook(TestCase):
    def setUp(self) -> None:
        self.book = Book(parse_journal("receive nut 10 @ 2\nreceive bolt 5 @ 3\nship nut 4"))

    def test_quantities_follow_from_the_movements(self) -> None:
        self.assertEqual(self.book.on_hand("nut"), 6)
        self.assertEqual(self.book.on_hand("bolt"), 5)

    def test_an_item_never_seen_has_none(self) -> None:
        self.assertEqual(self.book.on_hand("washer"), 0)

    def test_an_item_that_ran_out_is_not_listed(self) -> None:
        self.book.post(parse("ship bolt 5"))
        self.assertEqual(self.book.items(), ["nut"])

    def test_the_last_piece_may_leave_but_not_one_more(self) -> None:
        self.book.post(parse("ship nut 6"))
        with self.assertRaisesRegex(OutOfStock, "1 nut wanted, 0 on hand"):
            self.book.post(parse("ship nut 1"))

    def test_a_refused_batch_leaves_no_trace(self) -> None:
        with self.assertRaises(OutOfStock) as caught:
            self.book.post(parse("receive bolt 1 @ 3"), parse("ship bolt 2"), parse("ship nut 7"))
        self.assertEqual((caught.exception.wanted, caught.exception.on_hand), (7, 6))
        self.assertEqual(self.book.on_hand("bolt"), 5)
        self.assertEqual(len(self.book.history("bolt")), 1)

    def test_a_batch_is_posted_in_its_order(self) -> None:
        self.book.post(parse("receive nut 4 @ 1"), parse("ship nut 10"))
        self.assertEqual(self.book.on_hand("nut"), 0)

    def test_history_is_of_one_item_and_oldest_first(self) -> None:
        self.assertEqual([movement.change for movement in self.book.history("nut")], [10, -4])
