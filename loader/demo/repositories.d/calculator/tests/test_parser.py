"""How operators group, and what is not an expression."""

import unittest

from calculator.parser import MAX_DIGITS, Binary, Name, Node, Number, Unary, parse
from calculator.tokens import ExpressionError


def grouping(node: Node) -> str:
    """Write a tree with every pair of parentheses spelled out."""
    match node:
        case Number(value):
            return str(value)
        case Name(name):
            return name
        case Unary(sign, operand):
            return f"({sign}{grouping(operand)})"
        case Binary(symbol, left, right):
            return f"({grouping(left)}{symbol}{grouping(right)})"


class GroupingTest(unittest.TestCase):
    def test_operators_group_by_strength_and_side(self) -> None:
        expected = {
            "1+2*3": "(1+(2*3))",
            "1*2+3": "((1*2)+3)",
            "8-4-2": "((8-4)-2)",
            "8/4/2": "((8/4)/2)",
            "2^3^2": "(2^(3^2))",
            "2*3^2": "(2*(3^2))",
            "-2^2": "(-(2^2))",
            "2^-1": "(2^(-1))",
            "-2*3": "((-2)*3)",
            "--x": "(-(-x))",
            "(1+2)*3": "((1+2)*3)",
        }
        for expression, groups in expected.items():
            with self.subTest(expression):
                self.assertEqual(grouping(parse(expression)), groups)


class RefusalTest(unittest.TestCase):
    def test_refuses_what_is_not_an_expression(self) -> None:
        for text in ["", "1+", "*1", "(1", "1)", "()", "1 2", "2x", "1..2"]:
            with self.subTest(text), self.assertRaises(ExpressionError):
                parse(text)

    def test_names_the_place(self) -> None:
        with self.assertRaisesRegex(ExpressionError, "unexpected '\\)' at position 3"):
            parse("(1+)")
        with self.assertRaisesRegex(ExpressionError, "unexpected end of expression"):
            parse("2 *")

    def test_refuses_deep_nesting_instead_of_exhausting_the_stack(self) -> None:
        with self.assertRaisesRegex(ExpressionError, "nested too deeply"):
            parse("(" * 10_000)

    def test_refuses_a_number_of_too_many_digits(self) -> None:
        parse("9" * MAX_DIGITS)
        with self.assertRaisesRegex(ExpressionError, "too many digits at position 2"):
            parse("1+" + "9" * (MAX_DIGITS + 1))
