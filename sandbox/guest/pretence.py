"""`ssl` for modules that import it and can do without: names, and nothing behind them.

Whoever else imports `ssl` is told why it is not there. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def run(code: types.CodeType, module: types.ModuleType) -> None:
    """Run a module's code in it; while that goes on, `ssl` is there."""
    if "ssl" in sys.modules:
        exec(code, module.__dict__)
        return
    pretended: Any = types.ModuleType("ssl")
    pretended.__getattr__ = _named
    sys.modules["ssl"] = pretended
    try:
        exec(code, module.__dict__)
    finally:
        del sys.modules["ssl"]


def _named(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (OSError if name.endswith("Error") else _Nothing,), {})


class _Nothing:
    def __init__(self, *_: Any, **__: Any) -> None:
        raise OSError("there is no ssl in a sandbox: the host encrypts what it sends")
