"""How values are written."""

import random
import unittest
from fractions import Fraction

from calculator import evaluate, to_text


class ToTextTest(unittest.TestCase):
    def test_each_value_has_its_shortest_exact_form(self) -> None:
        expected = {
            "7": "7",
            "-7": "-7",
            "6/3": "2",
            "1/4": "0.25",
            "-1/8": "-0.125",
            "5/2": "2.5",
            "1/100": "0.01",
            "1/3": "1/3",
            "-2/6": "-1/3",
            "0": "0",
        }
        for expression, text in expected.items():
            with self.subTest(expression):
                self.assertEqual(to_text(evaluate(expression)), text)

    def test_text_evaluates_to_the_value_it_came_from(self) -> None:
        source = random.Random(7)
        for _ in range(2_000):
            value = Fraction(source.randint(-9_999, 9_999), source.randint(1, 500))
            with self.subTest(value=value):
                self.assertEqual(evaluate(to_text(value)), value)
