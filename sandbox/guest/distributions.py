"""Packages that came along with a `.dist-info` folder, as `importlib.metadata` wants to see them.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

from .resources import Entry

_SUFFIX = ".dist-info"


class Distribution(importlib.metadata.Distribution):
    """What is known of one package."""

    def __init__(self, root: Entry, folder: str) -> None:
        self._root, self._folder = root, folder

    def read_text(self, filename: str) -> str | None:
        """A file about the package."""
        file = self._root.joinpath(self._folder, filename)
        return file.read_text() if file.is_file() else None

    def locate_file(self, path: object) -> Entry:  # type: ignore[override] # it need not be a path of the system's
        """A file of the package."""
        return self._root.joinpath(path)


def find(root: Entry, context: importlib.metadata.DistributionFinder.Context) -> Iterator[Distribution]:
    """Those of a name, or all."""
    for folder in root.iterdir():
        stem, suffix = folder.name[: -len(_SUFFIX)], folder.name[-len(_SUFFIX) :]
        if suffix == _SUFFIX and (context.name is None or _plain(context.name) == _plain(stem.partition("-")[0])):
            yield Distribution(root, folder.name)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
