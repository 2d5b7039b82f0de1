"""Form data, as Cloudflare's Python SDK has it, and how it is written in a body and read from one.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub

from .blobs import Blob, File

_PARAMETER: Final = re.compile(r';\s*(\w+\*?)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')
_MOST_PARTS: Final = 10_000


class FormData(RpcTarget, MutableMapping[str, Any]):
    """Names with one or more values each, in order: text, blobs, files. `form[name]` is the first value of a name."""

    __module__ = "workers"

    def __init__(self, form_data: Any = None) -> None:
        self._entries: list[tuple[str, Any]] = []
        if isinstance(form_data, FormData):
            self._entries += form_data._entries
        elif isinstance(form_data, Mapping):
            for key, value in form_data.items():
                self.append(key, value)
        elif form_data is not None:
            raise TypeError("Expected a dict or FormData instance")

    def __getitem__(self, key: str) -> Any:
        for name, value in self._entries:
            if name == key:
                return value
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list):
            raise TypeError("Expected a single value; use append() to add several")
        entry = key, _value(value, None)
        place = next((place for place, (name, _) in enumerate(self._entries) if name == key), len(self._entries))
        kept = [one for one in self._entries[place:] if one[0] != key]
        self._entries[place:] = [entry, *kept]

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self.delete(key)

    def append(self, key: str, value: Any, filename: str | None = None) -> None:
        """One more value of that name."""
        self._entries.append((key, _value(value, filename)))

    def delete(self, key: str) -> None:
        """None of that name any longer."""
        self._entries = [entry for entry in self._entries if entry[0] != key]

    def get_all(self, key: str) -> list[Any]:
        """Each value of that name."""
        return [value for name, value in self._entries if name == key]

    getAll = get_all  # noqa: N815 - the names of the SDK

    def has(self, key: str) -> bool:
        """Whether there is one of that name."""
        return key in self

    set = __setitem__

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._entries)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """Each name with each of its values."""
        yield from self._entries

    entries = items

    def keys(self) -> Iterator[str]:  # type: ignore[override]
        """The name of each value."""
        yield from self

    def values(self) -> Iterator[Any]:  # type: ignore[override]
        """Each value."""
        yield from (value for _, value in self._entries)

    @property
    def js_object(self) -> FormData:
        """Itself: there is nothing below it."""
        return self

    def __body__(self) -> tuple[bytes, str]:
        """What it is as a body, and of which type that is."""
        boundary = f"form-{secrets.token_hex(16)}"
        parts = [_part(name, value, boundary) for name, value in self._entries]
        return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"

    def rpc_attributes(self) -> Mapping[str, Any]:
        """All of it, written as a body."""
        body, kind = self.__body__()
        return {"workers.class": "FormData", "body": body, "type": kind}

    def __repr__(self) -> str:
        return f"FormData({self._entries!r})"


def received(attributes: Mapping[str, Any], _: Stub) -> FormData:
    """One that came over the wire."""
    return parsed(attributes["body"], attributes["type"])


def parsed(body: bytes, kind: str | None) -> FormData:
    """A body as a form. `TypeError` if its type says that it is none, or it is not what the type says."""
    form = FormData()
    name = (kind or "").partition(";")[0].strip().lower()
    if name == "application/x-www-form-urlencoded":
        for key, value in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
            form.append(key, value)
    elif name == "multipart/form-data":
        boundary = _parameters(kind or "").get("boundary")
        if not boundary:
            raise TypeError("the content type of a form says no boundary")
        for head, content in _parts(body, boundary.encode()):
            about = _parameters(head.get("content-disposition", ""))
            if "name" not in about:
                raise TypeError("a part of the form has no name")
            form.append(about["name"], _content(head, about, content))
    else:
        raise TypeError(f"a body of type {kind!r} is no form: it is neither multipart/form-data nor urlencoded")
    return form


def _value(value: Any, filename: str | None) -> Any:
    if isinstance(value, Blob):
        if filename is None and isinstance(value, File):
            return value
        return File(value, filename, value.content_type) if filename is not None else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _part(name: str, value: Any, boundary: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"'
    if not isinstance(value, Blob):
        return f"{head}\r\n\r\n{value}\r\n".encode()
    kind = re.sub(r"[\r\n]", "", value.content_type) or "application/octet-stream"
    head += f'; filename="{_quoted(getattr(value, "name", "blob"))}"\r\nContent-Type: {kind}'
    return f"{head}\r\n\r\n".encode() + value._data + b"\r\n"


def _parameters(header: str) -> dict[str, str]:
    found = {}
    for name, quoted, plain in _PARAMETER.findall(";" + header.partition(";")[2]):
        text = quoted.replace('\\"', '"') or plain
        found[name.lower()] = text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
    return found


def _parts(body: bytes, boundary: bytes) -> Iterable[tuple[dict[str, str], bytes]]:
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--") or len(pieces) > _MOST_PARTS:
        raise TypeError("the body is not the form that its type says")
    for piece in pieces[1:-1]:
        head, gap, content = piece.partition(b"\r\n\r\n")
        if not gap:
            raise TypeError("a part of the form has no end of its headers")
        lines = head.decode("utf-8", "replace").split("\r\n")
        pairs = (line.partition(":") for line in lines if ":" in line)
        yield {name.strip().lower(): value.strip() for name, _, value in pairs}, content


def _content(head: Mapping[str, str], about: Mapping[str, str], content: bytes) -> Any:
    if "filename" not in about:
        return content.decode("utf-8", "replace")
    return File(content, about["filename"], head.get("content-type", ""))
