"""Values as a tenant sees them: maps that answer to attributes, as objects from JavaScript would."""

from __future__ import annotations

import datetime
from typing import Any


class JsDict(dict[str, Any]):
    """A dict whose keys can be read as attributes: `event.payload` and `event["payload"]` are the same."""

    __module__ = "workers"

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(name) from None
        if type(value) in {list, datetime.datetime}:  # who reads an attribute may ask of it what JavaScript's can do
            from . import conversions

            value = self[name] = conversions.attribute(value)
        return value

    def to_py(self, **_: Any) -> dict[str, Any]:
        """The same as a plain dict, and of plain values. Programs ask it of what JavaScript would have given them."""
        from . import conversions

        return conversions.plain(self)  # type: ignore[no-any-return]
