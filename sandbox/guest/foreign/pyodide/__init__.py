"""`pyodide`: as much of it as programs use that touch JavaScript lightly. There is none."""

from __future__ import annotations

__version__ = "0.29.0"


def __getattr__(name: str) -> object:
    if name in {"ffi", "http", "webloop", "code"}:
        import importlib

        return importlib.import_module(f"pyodide.{name}")
    raise AttributeError(f"module 'pyodide' has no attribute {name!r} here: this is CPython, and runs no JavaScript")
