"""What an author says of a program in the files that tools read: which module is the main one, what it needs, and which
runtime it was written for. Cloudflare's `wrangler` files are understood as far as they say so.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import CannotBundle

_CONFIGS: Final = ("wrangler.jsonc", "wrangler.json", "wrangler.toml")
_MAINS: Final = ("main.py", "entry.py", "worker.py", "index.py", "app.py")
_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]])', re.DOTALL)
_REQUIREMENTS: Final = ("requirements.txt", "cf-requirements.txt")


@dataclass(frozen=True, slots=True)
class Project:
    """A program's folder, and what is said about it."""

    main: Path
    needs: tuple[str, ...] = ()
    """Requirements, as pip understands them."""
    compatibility_date: str = ""
    compatibility_flags: tuple[str, ...] = ()
    vars: Mapping[str, Any] = field(default_factory=dict)
    """Plain values of its env."""

    @property
    def root(self) -> Path:
        """The folder whose files are imported without a prefix."""
        return self.main.parent


def read(folder: Path, main: str | None) -> Project:
    """What a folder says. `CannotBundle` if there is no main module, or a file that cannot be read."""
    if not folder.is_dir():
        raise CannotBundle(f"{folder} is no folder: name the one that the program lies in, or a wheel")
    config = _config(folder)
    flags = config.get("compatibility_flags", ())
    return Project(
        main=_main(folder, main or config.get("main")),
        needs=tuple(_needs(folder)),
        compatibility_date=str(config.get("compatibility_date", "")),
        compatibility_flags=tuple(map(str, flags if isinstance(flags, list) else ())),
        vars=config["vars"] if isinstance(config.get("vars"), dict) else {},
    )


def _config(folder: Path) -> Mapping[str, Any]:
    for name in _CONFIGS:
        file = folder / name
        if file.is_file():
            text = file.read_text()
            try:
                found = tomllib.loads(text) if file.suffix == ".toml" else json.loads(plain(text))
            except ValueError as error:
                raise CannotBundle(f"{name} cannot be read: {error}") from error
            return found if isinstance(found, dict) else {}
    return {}


def plain(text: str) -> str:
    """JSON with comments, and commas where none may be, as JSON."""
    return _TOKENS.sub(lambda found: found[0] if found[0].startswith('"') else "", text)


def _main(folder: Path, said: object) -> Path:
    if said is not None:
        file = folder / str(said)
        if file.suffix != ".py" or not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            raise CannotBundle(f"the main module {str(said)!r} is no Python file in {folder}")
        return file
    for place in (folder, folder / "src"):
        for name in _MAINS:
            if (place / name).is_file():
                return place / name
    names = ", ".join(_MAINS)
    raise CannotBundle(f"no main module is in {folder} or its src: name it, or call it one of {names}")


def _needs(folder: Path) -> list[str]:
    file = folder / "pyproject.toml"
    if file.is_file():
        try:
            project = tomllib.loads(file.read_text()).get("project", {})
        except ValueError as error:
            raise CannotBundle(f"pyproject.toml cannot be read: {error}") from error
        if "dependencies" in project:
            return [str(one) for one in project["dependencies"]]
    for name in _REQUIREMENTS:
        file = folder / name
        if file.is_file():
            return _lines(name, file.read_text())
    return []


def _lines(name: str, text: str) -> list[str]:
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    odd = next((line for line in found if line.startswith(("-", ".", "/")) or "://" in line), None)
    if odd is not None:
        raise CannotBundle(f"{name} has {odd!r:.80}; a worker's requirements are names and versions, and nothing else")
    return found
