"""Several statements in one text, told apart as SQLite does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator


def split(script: str) -> Iterator[str]:
    """The statements of a script."""
    kept = ""
    for part in script.split(";"):
        kept += f"{part};"
        if sqlite3.complete_statement(kept):
            if kept.strip(" \t\r\n;"):
                yield kept
            kept = ""
    if kept.strip(" \t\r\n;"):
        yield kept.removesuffix(";")
