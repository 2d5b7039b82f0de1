"""What the other side may have worded, as it stands in a host's log: set off from what the host says itself.

No guest imports it: it has no log, and what it is told of comes from the host.
"""

from __future__ import annotations

import traceback
from logging import LogRecord

from .failures import MAX_TRACE, printable


def set_off(text: str) -> str:
    """What somebody else may have worded, as it stands in a log: no line of it but the first looks like one of that."""
    return printable(text).replace("\n", "\n    | ")


def quote(record: LogRecord) -> bool:
    """A filter for loggers: the traceback of an exception that the other side may have worded is set off as well.
    Handlers that ask for the exception itself have it."""
    if record.exc_info and not record.exc_text:
        text = "".join(traceback.format_exception(record.exc_info[1]))
        record.exc_text = "    | " + set_off(text[-MAX_TRACE:].rstrip("\n"))
    return True
