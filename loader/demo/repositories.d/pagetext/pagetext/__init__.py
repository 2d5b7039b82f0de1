"""Text for pages: a small Markdown, its headings as an outline, and names fit for addresses."""

from pagetext.outline import Heading, contents, headings
from pagetext.render import render
from pagetext.slug import shorten, slugify, unique

__all__ = ["Heading", "contents", "headings", "render", "shorten", "slugify", "unique"]
