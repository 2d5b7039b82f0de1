"""What a command prints, whatever the terminal or the file can take."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_ANY_WIDTH = 10_000


def show_what_can_be_shown() -> None:
    """A character that the output cannot take is a question mark, and no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_json(value: Any) -> None:
    """For programs, which get every character: as it is where the output is UTF-8, and else by its number. So they get
    what is not for the eye: a tenant has written it, and there may be a terminal."""
    as_it_is = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not as_it_is)
    hidden = [character for character in set(text) if not character.isprintable() and character != "\n"]
    print(text.translate({ord(character): json.dumps(character)[1:-1] for character in hidden}))


def print_whole(table: Table) -> None:
    """As wide as it is: a name that is cut off can be copied into no command, and a terminal breaks lines by itself."""
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
    Console(width=max(wide, console.width)).print(table, crop=False)
