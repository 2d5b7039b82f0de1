"""What the runtime that programs are written for has for itself. There is nothing of it here."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"_pyodide_entrypoint_helper.{name} is of the inside of another runtime; use the module `workers` instead"
    )
