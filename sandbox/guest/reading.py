"""Files that came along with the tenant's code, opened by their paths as if they lay beside it. For reading only.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any

from . import importer


def opened(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, *_: Any, **__: Any,
) -> IO[Any] | None:  # fmt: skip
    """The file, or None if none of that name came along, or it is to be written."""
    if set(mode) - set("rbt"):
        return None
    path = os.path.normpath(os.fsdecode(file)).lstrip("/")
    for finder in sys.meta_path:
        if isinstance(finder, importer.Tenant) and path in finder.paths:
            data = io.BytesIO(finder.get_data(path))
            return data if "b" in mode else io.TextIOWrapper(data, encoding or "utf-8", errors, newline)
    return None
