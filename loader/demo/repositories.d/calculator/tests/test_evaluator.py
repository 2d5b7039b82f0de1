"""What expressions are worth, and that we agree with Python about it."""

import random
import unittest
from fractions import Fraction

from calculator import CalculationError, evaluate


class EvaluateTest(unittest.TestCase):
    def test_decimals_are_exact(self) -> None:
        self.assertEqual(evaluate("0.1 + 0.2"), Fraction(3, 10))

    def test_division_is_exact(self) -> None:
        self.assertEqual(evaluate("1/3 + 1/6"), Fraction(1, 2))

    def test_a_negative_power_is_a_reciprocal(self) -> None:
        self.assertEqual(evaluate("(2/3)^-2"), Fraction(9, 4))

    def test_names_take_the_given_values(self) -> None:
        self.assertEqual(evaluate("price * (1 + vat)", {"price": 20, "vat": Fraction(1, 4)}), 25)

    def test_what_has_no_value_is_refused_in_words(self) -> None:
        refusals = {
            "1/(2-2)": "division by zero",
            "0^-1": "zero to a negative power",
            "2^0.5": "the exponent 1/2 is not a whole number",
            "9^9^9": "the number is too large",
            "2*speed": "unknown name 'speed' at position 2",
        }
        for expression, words in refusals.items():
            with self.subTest(expression), self.assertRaisesRegex(CalculationError, words):
                evaluate(expression)

    def test_a_long_sum_is_no_deeper_than_a_short_one(self) -> None:
        self.assertEqual(evaluate("+".join(["1"] * 5_000)), 5_000)

    def test_a_product_that_grows_without_end_is_refused(self) -> None:
        with self.assertRaisesRegex(CalculationError, "the number is too large"):
            evaluate("*".join(["9999999999"] * 1_000))

    def test_powers_of_one_and_zero_are_never_too_large(self) -> None:
        self.assertEqual(evaluate("(-1)^1000001"), -1)
        self.assertEqual(evaluate("0^1000000"), 0)


class AgreementWithPythonTest(unittest.TestCase):
    """Python's own precedence is the oracle, on random expressions from a fixed seed."""

    def test_random_expressions_have_the_value_python_gives_them(self) -> None:
        source = random.Random(20_240_229)
        for _ in range(1_000):
            ours, pythons = self.random_expression(source, depth=3)
            with self.subTest(ours):
                self.assertEqual(evaluate(ours), eval(pythons, {"Fraction": Fraction}))

    def random_expression(self, source: random.Random, depth: int) -> tuple[str, str]:
        """Return one expression twice: in our spelling, and in Python's."""
        ours, pythons = self.random_operand(source, depth)
        for _ in range(source.randint(0, 3)):
            symbol = source.choice("+-*")
            right_ours, right_pythons = self.random_operand(source, depth)
            ours, pythons = f"{ours}{symbol}{right_ours}", f"{pythons}{symbol}{right_pythons}"
        return ours, pythons

    def random_operand(self, source: random.Random, depth: int) -> tuple[str, str]:
        if depth and source.random() < 0.3:
            ours, pythons = self.random_expression(source, depth - 1)
            return f"({ours})", f"({pythons})"
        digit, exponent = source.randint(1, 9), source.randint(0, 3)
        shapes = [
            (f"{digit}", f"Fraction({digit})"),
            (f"-{digit}", f"-Fraction({digit})"),
            (f"{digit}^{exponent}", f"Fraction({digit})**{exponent}"),
            (f"-{digit}^-{exponent}", f"-Fraction({digit})**-{exponent}"),
            (f"1/{digit}", f"Fraction(1)/{digit}"),
        ]
        return source.choice(shapes)
