"""`HTMLRewriter` inside a sandbox: what is touched changes, and the rest of a page stays as it was written."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from cloister.loader import TenantError, WorkerStub

Make = Callable[..., WorkerStub]
PROGRAM = """
from workers import HTMLRewriter, Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def go(self, page):
        rewriter = HTMLRewriter()
        told = []
{body}
        text = await rewriter.transform(Response(page, headers={{"content-type": "text/html"}})).text()
        return [text, *told]
"""


@pytest.fixture
def rewritten(worker: Make) -> Callable[..., Any]:
    """A page after a tenant's handlers, and what they noted."""

    async def run(page: str, body: str) -> Any:
        source = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
        return await worker(source).get_entrypoint().go(page)

    return run


async def test_what_is_not_touched_stays_as_it_was_written(rewritten: Any) -> None:
    """Also what no browser would write so."""
    page = """<!DOCTYPE html>\n<P CLASS=a  data-x='"'>1 < 2 &amp; <br/>é<!-- c --><b>x</p></u>
    <script>if (a</b>.test("<p>")) "<!--"</script ><title><p></title><a title=it's href="?a=1&b">y</a><"""
    body = """
    class Looks:
        def element(self, element): told.append(element.tagName)
        def text(self, text): pass
        def comments(self, comment): pass
    rewriter.on("*", Looks()).on_document(Looks())
    """
    assert await rewritten(page, body) == [page, "p", "br", "b", "script", "title", "a"]


async def test_an_element_is_changed(rewritten: Any) -> None:
    """Its name, its attributes, what is in it and around it; text is escaped, HTML is not."""
    body = """
    class Changes:
        def element(self, element):
            told.append(list(element.attributes))
            element.setAttribute("HREF", 'say "a"').removeAttribute("class")
            told.append([element.hasAttribute("class"), element.getAttribute("href"), element.getAttribute("none")])
            element.before("<1>").before("<i>2</i>", html=True).after("3").after("<i>4</i>", {"html": True})
            element.prepend("5").prepend("6").append("7").append("8")
            element.tagName = "b"
            element.onEndTag(lambda end: end.before("9") and told.append(end.name))
    rewriter.on("a", Changes())
    """
    assert await rewritten('<p><A class="c" href=x>t</A></p>', body) == [
        '<p>&lt;1&gt;<i>2</i><b href="say &quot;a&quot;">65t978</b><i>4</i>3</p>',
        [["class", "c"], ["href", "x"]], [False, 'say "a"', None], "b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("remove()", "<p>.</p>"),
        ("replace('n')", "<p>n.</p>"),
        ("removeAndKeepContent()", "<p>1<i>2</i>.</p>"),
        ("setInnerContent('n')", "<p><b>n</b>.</p>"),
        ("setInnerContent('<u>n</u>', html=True)", "<p><b><u>n</u></b>.</p>"),
        ("remove().after('n')", "<p>n.</p>"),
    ],
)
async def test_an_element_goes(rewritten: Any, change: str, expected: str) -> None:
    """With what is in it, or without."""
    body = f"""
    class Changes:
        def element(self, element): element.{change}
    rewriter.on("b", Changes())
    """
    assert (await rewritten("<p><b>1<i>2</i></b>.</p>", body))[0] == expected


async def test_elements_without_an_end_are_changed_too(rewritten: Any) -> None:
    """Those that never have one, and those that nobody ended."""
    body = """
    class Changes:
        def element(self, element): element.before("(").append("+").after(")")
    class Goes:
        def element(self, element): element.replace("gone")
    rewriter.on("img, li", Changes()).on("meta", Goes())
    """
    assert (await rewritten("<ul><img src=a><meta><li>x</ul>", body))[0] == "<ul>(<img src=a>)gone(<li>x+)</ul>"


async def test_text_comments_and_the_page_itself_are_told(rewritten: Any) -> None:
    """In the order of the page; handlers may be coroutines."""
    body = """
    import asyncio
    class Inner:
        async def text(self, text):
            await asyncio.sleep(0)
            told.append([text.text, text.lastInTextNode])
            text.replace("T")
        def comments(self, comment):
            told.append(comment.text)
            comment.text = "n"
    class Whole:
        def doctype(self, doctype): told.append([doctype.name, doctype.publicId, doctype.systemId])
        def comments(self, comment): comment.remove() if "root" in comment.text else None
        def end(self, end): end.append("<!-- end -->", html=True)
    rewriter.on("p", Inner()).on_document(Whole())
    """
    page = '<!doctype html PUBLIC "p" "s"><!--root-->a<p>b<i>c</i><!--d--></p>'
    assert await rewritten(page, body) == [
        '<!doctype html PUBLIC "p" "s">a<p>T<i>T</i><!--n--></p><!-- end -->',
        ["html", "p", "s"], ["b", True], ["c", True], "d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("*", "123456"), ("a", "3"), ("A", "3"), ("#k", "2"), (".x", "24"), (".x.y", "4"), ("div.x", "2"),
        ("[h]", "34"),
        ('[h="One Two"]', "3"), ("[h=t]", "4"), ('[h~="Two"]', "3"), ('[h^="One"]', "3"), ('[h$="Two"]', "3"),
        ('[h*="e T"]', "3"), ('[l|="en"]', "56"), ('[h="one two" i]', "3"), ("div a", "3"), ("div > a", "3"),
        ("section > a", ""), ("section a", "3"), ("section div > *", "34"), ("a, p", "345"), ("p:not(.x)", "5"),
        ("div:first-child", "2"), ("p:nth-child(2)", "45"), ("p:first-of-type", "45"), ("*:nth-child(2n+1)", "1236"),
        ("section > *:nth-child(odd)", "26"), ('a[h="One Two"], [id="k"]', "23"), ("section>:nth-of-type(1)", "256"),
    ],
)  # fmt: skip
async def test_a_selector_means_elements(rewritten: Any, selector: str, found: str) -> None:
    """What Cloudflare's knows of CSS."""
    page = """<section n=1><div id=k class="x" n=2><a h="One Two" n=3></a><p class="y x" h=t n=4></p></div>
    <p l=en n=5></p><i l=en-US n=6></i></section>"""
    body = f"""
    class Finds:
        def element(self, element): told.append(element.getAttribute("n"))
    rewriter.on({selector!r}, Finds())
    """
    assert "".join((await rewritten(page, body))[1:]) == found


@pytest.mark.parametrize("selector", ["", "a >", "a + b", "a:hover", "[", "a,,b", "> a", "a:nth-child(x)"])
async def test_what_is_no_selector_is_refused(rewritten: Any, selector: str) -> None:
    """When the handler is given."""
    with pytest.raises(TenantError, match="no selector that HTMLRewriter knows"):
        await rewritten("", f"rewriter.on({selector!r}, object())")


async def test_a_rewriter_is_used_again_and_a_handlers_error_is_the_readers(worker: Make) -> None:
    """What it says of the response stays, but its length; a body that nobody reads calls nobody."""
    source = """
    from js import HTMLRewriter
    from pyodide.ffi import create_proxy
    from workers import Response, WorkerEntrypoint
    class Counts:
        count = 0
        def element(self, element):
            self.count += 1
            if element.hasAttribute("bad"):
                raise RuntimeError("a bad one")
            element.setAttribute("n", self.count)
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            counts = Counts()
            rewriter = HTMLRewriter.new().on("p", create_proxy(counts))
            rewriter.transform(Response("<p></p>"))
            first = await rewriter.transform(Response("<p></p>")).text()
            assert (first, counts.count) == ('<p n="1"></p>', 1)
            assert rewriter.transform(Response(None, status=204)).body is None
            reader = rewriter.transform(Response("<p></p>")).js_object.body.getReader()
            await reader.cancel()
            assert (await reader.read()).done and counts.count == 1
            headers = {"content-length": "3", "x-a": "1"}
            page = "<p bad>" if "bad" in request.url else b"<p>\\xff" * 30_000
            return rewriter.transform(Response(page, status=201, headers=headers))
    """
    entry = worker(source).get_entrypoint()
    response = await entry.fetch("http://a.b/")
    assert (response.status, dict(response.headers)) == (201, {"x-a": "1"})
    data = await response.bytes()
    assert data.startswith(b'<p n="2">\xff<p n="3">\xff')
    assert data.count(b"\xff") == 30_000
    with pytest.raises(TenantError, match="a bad one"):
        await (await entry.fetch("http://a.b/bad")).text()
