import unittest

from pagetext.blocks import Code, Items, Paragraph, Title, parse


class Parse(unittest.TestCase):
    def test_neighbouring_lines_are_one_paragraph(self) -> None:
        self.assertEqual(parse("one\ntwo\n\nthree"), [Paragraph("one two"), Paragraph("three")])

    def test_titles_have_a_level(self) -> None:
        self.assertEqual(parse("# One\n### Three ###"), [Title(1, "One"), Title(3, "Three")])

    def test_a_hash_that_belongs_to_a_word_is_kept(self) -> None:
        self.assertEqual(parse("# Why C#"), [Title(1, "Why C#")])

    def test_a_hash_without_a_space_makes_no_title(self) -> None:
        self.assertEqual(parse("#one"), [Paragraph("#one")])

    def test_neighbouring_items_are_one_list(self) -> None:
        self.assertEqual(parse("- one\n* two\nafter"), [Items(("one", "two")), Paragraph("after")])

    def test_code_is_kept_as_it_is(self) -> None:
        text = "```python\n# no title\n\n  - no item\n```\nafter"
        code = Code("python", "# no title\n\n  - no item")
        self.assertEqual(parse(text), [code, Paragraph("after")])

    def test_code_that_is_not_closed_goes_on_to_the_end(self) -> None:
        self.assertEqual(parse("```\none"), [Code("", "one")])

    def test_a_paragraph_ends_where_another_block_begins(self) -> None:
        expected = [Paragraph("text"), Title(1, "Title"), Paragraph("text"), Items(("item",))]
        self.assertEqual(parse("text\n# Title\ntext\n- item"), expected)

    def test_empty_text_has_no_blocks(self) -> None:
        self.assertEqual(parse(" \n\n"), [])
