"""Values as a tenant sees them: maps that answer to attributes, as objects from JavaScript would."""

from __future__ import annotations

from typing import Any


class JsDict(dict[str, Any]):
    """A dict whose keys can be read as attributes: `event.payload` and `event["payload"]` are the same."""

    __module__ = "workers"

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
