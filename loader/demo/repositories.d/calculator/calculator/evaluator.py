"""From a tree to its value, in exact arithmetic and in bounded memory."""

import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

from .parser import Binary, Name, Node, Number, Unary, parse

MAX_BITS = 4096  # of a numerator or denominator: about 1,200 digits


class CalculationError(ArithmeticError):
    """The expression is well formed, but has no value that we can give."""


def evaluate(text: str, names: Mapping[str, Fraction | int] | None = None) -> Fraction:
    """Return the exact value of the expression `text`.

    `names` gives the values of the names in it. Raises ExpressionError where `text` is not an
    expression, CalculationError where it has no value.
    """
    return _value(parse(text), names or {})


def _value(node: Node, names: Mapping[str, Fraction | int]) -> Fraction:
    """Walk down the left side in a loop: a long sum is a deep tree only there."""
    pending: list[Binary] = []
    while isinstance(node, Binary):
        pending.append(node)
        node = node.left
    value = _operand_value(node, names)
    for parent in reversed(pending):
        value = _OPERATIONS[parent.operator](value, _value(parent.right, names))
        if _bits(value) > MAX_BITS:
            raise CalculationError("the number is too large")
    return value


def _operand_value(node: Number | Name | Unary, names: Mapping[str, Fraction | int]) -> Fraction:
    match node:
        case Number(value):
            return value
        case Name(name, position):
            if name not in names:
                raise CalculationError(f"unknown name {name!r} at position {position}")
            return Fraction(names[name])
        case Unary(sign, operand):
            value = _value(operand, names)
            return -value if sign == "-" else value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _divide(dividend: Fraction, divisor: Fraction) -> Fraction:
    if divisor == 0:
        raise CalculationError("division by zero")
    return dividend / divisor


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CalculationError(f"the exponent {exponent} is not a whole number")
    if base == 0 and exponent < 0:
        raise CalculationError("zero to a negative power")
    if abs(base) not in (0, 1) and (_bits(base) - 1) * abs(exponent) > MAX_BITS:
        raise CalculationError("the number is too large")
    return Fraction(base**exponent.numerator)


_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "^": _power,
}
