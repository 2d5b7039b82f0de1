import random
import unittest

from pagetext import shorten, slugify, unique


class Slugify(unittest.TestCase):
    def test_words_are_joined_by_hyphens(self) -> None:
        self.assertEqual(slugify("  Hello,   World! "), "hello-world")

    def test_accents_are_dropped(self) -> None:
        self.assertEqual(slugify("Crème Brûlée"), "creme-brulee")

    def test_letters_without_a_plain_form_are_spelled_out(self) -> None:
        self.assertEqual(slugify("Straße & Æther"), "strasse-and-aether")

    def test_an_apostrophe_does_not_part_a_word(self) -> None:
        self.assertEqual(slugify("Ada\u2019s engine, Grace's bug"), "adas-engine-graces-bug")

    def test_decorated_capitals_are_lowered_too(self) -> None:
        self.assertEqual(slugify("\u210cello"), "hello")

    def test_nothing_usable_gives_an_empty_slug(self) -> None:
        self.assertEqual(slugify("\u4f60\u597d !"), "")

    def test_any_text_gives_a_wellformed_slug(self) -> None:
        source = random.Random(1906)
        for _ in range(3_000):
            codepoints = (source.randrange(1, 0x2500) for _ in range(source.randrange(20)))
            text = "".join(map(chr, codepoints))
            slug = slugify(text)
            self.assertRegex(slug, r"\A([a-z0-9]+(-[a-z0-9]+)*)?\Z", f"from {text!r}")
            self.assertEqual(slugify(slug), slug, f"from {text!r}")


class Shorten(unittest.TestCase):
    def test_a_short_slug_stays(self) -> None:
        self.assertEqual(shorten("one-two", 7), "one-two")

    def test_words_are_kept_whole(self) -> None:
        self.assertEqual(shorten("one-two-three", 10), "one-two")

    def test_a_word_that_ends_at_the_limit_is_kept(self) -> None:
        self.assertEqual(shorten("one-two-three", 7), "one-two")

    def test_a_long_first_word_is_cut(self) -> None:
        self.assertEqual(shorten("honorificabilitudinity", 8), "honorifi")

    def test_no_hyphen_is_left_at_the_end(self) -> None:
        self.assertEqual(shorten("one-two-three", 8), "one-two")


class Unique(unittest.TestCase):
    def test_a_free_slug_stays(self) -> None:
        self.assertEqual(unique("intro", {"outro"}), "intro")

    def test_a_taken_slug_gets_the_first_free_number(self) -> None:
        self.assertEqual(unique("intro", {"intro", "intro-2"}), "intro-3")
