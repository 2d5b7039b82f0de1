"""What counts as a token, and where."""

import unittest

from calculator.tokens import ExpressionError, Kind, tokenize


class TokenizeTest(unittest.TestCase):
    def texts(self, expression: str) -> list[str]:
        return [token.text for token in tokenize(expression)]

    def test_splits_without_needing_spaces(self) -> None:
        self.assertEqual(self.texts("2*(x_1+.5)"), ["2", "*", "(", "x_1", "+", ".5", ")", ""])

    def test_ignores_space_around_tokens(self) -> None:
        self.assertEqual(self.texts("  1 \t+\n2 "), ["1", "+", "2", ""])

    def test_remembers_positions(self) -> None:
        self.assertEqual([token.position for token in tokenize("1 + 23")], [0, 2, 4, 6])

    def test_tells_numbers_from_names(self) -> None:
        kinds = [token.kind for token in tokenize("3 x")]
        self.assertEqual(kinds, [Kind.NUMBER, Kind.NAME, Kind.END])

    def test_empty_text_is_only_an_end(self) -> None:
        self.assertEqual([token.kind for token in tokenize("")], [Kind.END])

    def test_refuses_what_is_no_token_and_says_where(self) -> None:
        with self.assertRaisesRegex(ExpressionError, "'%' at position 2") as caught:
            self.texts("1 % 2")
        self.assertEqual(caught.exception.position, 2)

    def test_refuses_digits_of_other_scripts(self) -> None:
        with self.assertRaises(ExpressionError):
            self.texts("\u0663")
