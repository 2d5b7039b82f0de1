import unittest

from pagetext import Heading, contents, headings

PAGE = """\
# The Engine
## Cards
## Wheels & Rods
```
# not a heading
```
### Carry
## Cards
"""


class Headings(unittest.TestCase):
    def test_each_heading_has_an_anchor_of_its_own(self) -> None:
        self.assertEqual(
            [heading.anchor for heading in headings(PAGE)],
            ["the-engine", "cards", "wheels-and-rods", "carry", "cards-2"],
        )

    def test_a_title_without_letters_is_a_section(self) -> None:
        self.assertEqual(headings("## ???"), [Heading(2, "???", "section")])

    def test_long_anchors_are_shortened(self) -> None:
        (heading,) = headings("# On the computation of the numbers of Bernoulli by machine")
        self.assertEqual(heading.anchor, "on-the-computation-of-the-numbers-of")


class Contents(unittest.TestCase):
    def test_levels_are_indented_from_the_highest(self) -> None:
        self.assertEqual(
            contents("## One\n### Two\n## Three"),
            "- [One](#one)\n  - [Two](#two)\n- [Three](#three)",
        )

    def test_deep_levels_are_left_out(self) -> None:
        self.assertEqual(contents("# One\n## Two", deepest=1), "- [One](#one)")

    def test_a_page_without_headings_has_no_contents(self) -> None:
        self.assertEqual(contents("only text"), "")
