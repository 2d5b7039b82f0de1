"""A stock ledger: what came in, what went out, what is left, and what that is worth."""

from ledger.book import Book, OutOfStock
from ledger.movements import Kind, Movement, MovementError, parse, parse_journal
from ledger.valuation import Valuation, value_first_in_first_out

__version__ = "1.4.0"

__all__ = [
    "Book",
    "Kind",
    "Movement",
    "MovementError",
    "OutOfStock",
    "Valuation",
    "parse",
    "parse_journal",
    "value_first_in_first_out",
]
