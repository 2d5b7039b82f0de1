"""From blocks to HTML. Everything the author wrote is escaped; only our own tags are tags."""

import re
from html import escape

from pagetext import blocks
from pagetext.outline import list_headings

SAFE_ADDRESS = re.compile(r"(https?://|mailto:|/|#|\./)", re.IGNORECASE)
CODE_SPAN = re.compile(r"(`[^`]+`)")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
STRONG = re.compile(r"\*\*(\S(?:.*?\S)?)\*\*")
EMPHASIS = re.compile(r"\*(\S(?:.*?\S)?)\*")


def render(text: str) -> str:
    """Return `text` as HTML, one block on each line; headings carry their anchors."""
    parsed = blocks.parse(text)
    anchors = iter(heading.anchor for heading in list_headings(parsed))
    return "\n".join(
        _title(block, next(anchors)) if isinstance(block, blocks.Title) else _block(block)
        for block in parsed
    )


def _title(title: blocks.Title, anchor: str) -> str:
    return f'<h{title.level} id="{anchor}">{_inline(title.text)}</h{title.level}>'


def _block(block: blocks.Code | blocks.Items | blocks.Paragraph) -> str:
    match block:
        case blocks.Code(language, text):
            attribute = f' class="language-{escape(language)}"' if language else ""
            return f"<pre><code{attribute}>{escape(text)}</code></pre>"
        case blocks.Items(texts):
            items = "".join(f"<li>{_inline(text)}</li>" for text in texts)
            return f"<ul>{items}</ul>"
        case blocks.Paragraph(text):
            return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    """Render one stretch of text; what stands in backquotes is left as it is."""
    return "".join(
        f"<code>{escape(part[1:-1])}</code>" if CODE_SPAN.fullmatch(part) else _marked(part)
        for part in CODE_SPAN.split(text)
    )


def _marked(text: str) -> str:
    linked = LINK.sub(_link, escape(text))
    return EMPHASIS.sub(r"<em>\1</em>", STRONG.sub(r"<strong>\1</strong>", linked))


def _link(match: re.Match[str]) -> str:
    """Make a link of a safe address; leave any other, as javascript:, the text it was."""
    words, address = match[1], match[2].replace("*", "%2A")  # an asterisk there marks nothing
    return f'<a href="{address}">{words}</a>' if SAFE_ADDRESS.match(address) else match[0]
