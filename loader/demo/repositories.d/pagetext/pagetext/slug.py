"""Names for addresses: lower-case ASCII words with a hyphen between them."""

import re
import textwrap
import unicodedata
from collections.abc import Container

APOSTROPHES = str.maketrans("", "", "'\u2019")
SPELLED_OUT = str.maketrans({"ß": "ss", "æ": "ae", "ø": "o", "ł": "l", "&": " and "})


def slugify(text: str) -> str:
    """Return `text` as a slug, "" if none of its characters can be part of one.

    >>> slugify("Crème brûlée & Ada's pie")
    'creme-brulee-and-adas-pie'
    """
    spelled_out = text.lower().translate(APOSTROPHES).translate(SPELLED_OUT)
    decomposed = unicodedata.normalize("NFKD", spelled_out)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter)).lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))


def shorten(slug: str, limit: int) -> str:
    """Return as many whole words of `slug` as fit into `limit` characters.

    A first word that does not fit by itself is cut.
    """
    if len(slug) <= limit:
        return slug
    return slug[:limit].rsplit("-", maxsplit=1)[0]


def unique(slug: str, taken: Container[str]) -> str:
    """Return `slug`, or where that is taken `slug` with the first number from 2 that is not."""
    candidate, number = slug, 1
    while candidate in taken:
        number += 1
        candidate = f"{slug}-{number}"
    return candidate
