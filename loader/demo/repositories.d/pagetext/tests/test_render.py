import unittest

from pagetext import render


class Blocks(unittest.TestCase):
    def test_headings_carry_their_anchors(self) -> None:
        self.assertEqual(render("# One\n# One"), '<h1 id="one">One</h1>\n<h1 id="one-2">One</h1>')

    def test_lists(self) -> None:
        self.assertEqual(render("- one\n- two"), "<ul><li>one</li><li>two</li></ul>")

    def test_code_names_its_language(self) -> None:
        self.assertEqual(
            render("```python\na < b\n```"),
            '<pre><code class="language-python">a &lt; b</code></pre>',
        )


class Inline(unittest.TestCase):
    def check(self, text: str, expected: str) -> None:
        self.assertEqual(render(text), f"<p>{expected}</p>")

    def test_emphasis(self) -> None:
        self.check("**very** *so*", "<strong>very</strong> <em>so</em>")

    def test_a_lone_asterisk_is_an_asterisk(self) -> None:
        self.check("2 * 3 * 4", "2 * 3 * 4")

    def test_nothing_is_marked_inside_code(self) -> None:
        self.check("`**<b>**`", "<code>**&lt;b&gt;**</code>")

    def test_links(self) -> None:
        self.check("[see *it*](/a?b=1&c=2)", '<a href="/a?b=1&amp;c=2">see <em>it</em></a>')

    def test_asterisks_in_an_address_mark_nothing(self) -> None:
        self.check("[it](/*a*)", '<a href="/%2Aa%2A">it</a>')

    def test_tags_are_escaped(self) -> None:
        self.check("<script>", "&lt;script&gt;")

    def test_a_quote_cannot_leave_an_address(self) -> None:
        self.check('[x](/"onclick=")', '<a href="/&quot;onclick=&quot;">x</a>')

    def test_an_unsafe_address_is_no_link(self) -> None:
        self.check("[x](javascript:alert(1))", "[x](javascript:alert(1))")
