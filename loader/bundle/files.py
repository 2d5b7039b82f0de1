"""Files of a folder as modules: source as text, and everything else as the bytes it is.

What belongs to the author's tools, and what an interpreter makes, is left behind.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import CannotBundle

if TYPE_CHECKING:
    from ..code import Data, Module

NATIVE: Final = frozenset({".so", ".pyd", ".dylib", ".dll"})
_LEFT: Final = frozenset({".pyc", ".pyo", ".pyi", ".typed", ".pth"})
_TOOLS: Final = frozenset(
    "__pycache__ node_modules python_modules venv build dist tests test wrangler.toml wrangler.json wrangler.jsonc"
    " pyproject.toml requirements.txt cf-requirements.txt package.json package-lock.json uv.lock pnpm-lock.yaml"
    " yarn.lock worker-configuration.d.ts tsconfig.json vitest.config.ts".split()
)
"""Names that an author's tools know, at the top of a folder or below it."""
_MOST: Final = 10_000


def modules_of(root: Path) -> dict[str, Module]:
    """The files below a folder. `CannotBundle` for what is in C, what leads out of it, and where there are too many."""
    found: dict[str, Module] = {}
    for file in _walk(root):
        name = file.relative_to(root).as_posix()
        if not file.resolve().is_relative_to(root.resolve()):
            raise CannotBundle(f"{name} is a link that leads out of the folder; copy what it leads to")
        if file.suffix in NATIVE:
            raise CannotBundle(f"{name} is not written in Python; the host has to preload what it belongs to")
        if file.suffix not in _LEFT:
            found[name] = module_of(name, file.read_bytes())
        if len(found) > _MOST:
            raise CannotBundle(f"more than {_MOST:,} files are in the folder; name one that holds the program alone")
    return found


def module_of(name: str, content: bytes) -> Module:
    """One file."""
    return source(content) if name.endswith(".py") else data(content)


def source(content: bytes) -> Module:
    """Source as text, whatever its encoding. What cannot be read is no module, but may be of use as bytes."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = io.TextIOWrapper(io.BytesIO(content), encoding).read()
        text.encode()
    except (SyntaxError, UnicodeError, LookupError):
        return data(content)
    return text


def data(content: bytes) -> Data:
    """Bytes as a module."""
    from ..code import Data

    return Data(content)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in _TOOLS or entry.name.endswith((".egg-info", ".md")):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry
