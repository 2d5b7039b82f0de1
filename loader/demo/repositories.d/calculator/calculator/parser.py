"""From tokens to a tree, by precedence climbing.

Each binary operator has a strength on its left and on its right. An operator takes its left
operand away from a weaker one before it, and a right side weaker than the left makes it group
to the right, as in 2 ^ 3 ^ 2 = 2 ^ 9.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .tokens import ExpressionError, Kind, Token, tokenize


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Name:
    """A name whose value the caller of `evaluate` supplies."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Unary:
    """A sign in front of its operand."""

    operator: str
    operand: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """An operator between its operands."""

    operator: str
    left: "Node"
    right: "Node"


Node: TypeAlias = Number | Name | Unary | Binary

STRENGTH = {"+": (10, 11), "-": (10, 11), "*": (20, 21), "/": (20, 21), "^": (41, 40)}
SIGN_STRENGTH = 30  # above the product, below the power: -2 ^ 2 is -(2 ^ 2)
MAX_DEPTH = 100
MAX_DIGITS = 1_000


def parse(text: str) -> Node:
    """Return the tree of the expression `text`."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._token = next(self._tokens)
        self._depth = 0

    def parse(self) -> Node:
        tree = self._expression(0)
        if self._token.kind is not Kind.END:
            raise self._unexpected()
        return tree

    def _expression(self, weakest: int) -> Node:
        """Read operands and operators for as long as these are at least `weakest`."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply", self._token.position)
        tree = self._operand()
        while (strength := STRENGTH.get(self._token.text)) and strength[0] >= weakest:
            operator = self._advance().text
            tree = Binary(operator, tree, self._expression(strength[1]))
        self._depth -= 1
        return tree

    def _operand(self) -> Node:
        match self._token:
            case Token(Kind.NUMBER):
                return self._number()
            case Token(Kind.NAME):
                token = self._advance()
                return Name(token.text, token.position)
            case Token(Kind.SYMBOL, "+" | "-"):
                return Unary(self._advance().text, self._expression(SIGN_STRENGTH))
            case Token(Kind.SYMBOL, "("):
                return self._group()
        raise self._unexpected()

    def _number(self) -> Number:
        token = self._advance()
        if len(token.text) > MAX_DIGITS:
            raise ExpressionError("a number of too many digits", token.position)
        return Number(Fraction(token.text))

    def _group(self) -> Node:
        self._advance()
        tree = self._expression(0)
        if self._token.text != ")":
            raise self._unexpected()
        self._advance()
        return tree

    def _advance(self) -> Token:
        token = self._token
        self._token = next(self._tokens)
        return token

    def _unexpected(self) -> ExpressionError:
        found = repr(self._token.text) if self._token.text else "end of expression"
        return ExpressionError(f"unexpected {found}", self._token.position)
