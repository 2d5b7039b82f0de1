"""`js`: as much of JavaScript's global names as programs use that touch it lightly. There is no JavaScript.

Each is made of Python's own when it is first asked for. What has no place here says so, and what to use instead.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_LATER: Final = {
    "plain": "Array Boolean Error JSON Map Math Number Object Promise Set String TypeError console"
    " undefined clearTimeout setTimeout queueMicrotask structuredClone performance",
    "buffers": "ArrayBuffer DataView Float32Array Float64Array Int16Array Int32Array Int8Array Uint16Array Uint32Array"
    " Uint8Array Uint8ClampedArray",
    "markup": "HTMLRewriter",
    "web": "AbortController Blob File FormData Headers Request Response fetch",
    "addresses": "URL URLSearchParams",
    "dates": "Date",
    "cache": "caches",
    "streams": "FixedLengthStream IdentityTransformStream ReadableStream TransformStream WritableStream",
    "sockets": "WebSocket WebSocketPair WebSocketRequestResponsePair",
    "crypto": "CryptoKey SubtleCrypto crypto",
    "text": "TextDecoder TextEncoder atob btoa decodeURI decodeURIComponent encodeURI encodeURIComponent",
}
_ABSENT: Final = {
    "WebAssembly": "there is no WebAssembly here; what is not written in Python has to be in the runtime profile",
    "eval": "there is no JavaScript here",
    "Function": "there is no JavaScript here",
    "document": "there is no browser here",
    "window": "there is no browser here",
    "RegExp": "use the module re",
    "Buffer": "use bytes, and the module base64",
    "require": "use import",
    "env": "use `from workers import env`",
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names.split():
            found = globals()[name] = getattr(importlib.import_module(f"js.{module}"), name)
            return found
    if name == "globalThis":
        return importlib.import_module("js")
    if name in _ABSENT:
        return Absent(name, _ABSENT[name])
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"js.{name} does not exist in a sandbox: this is CPython, and runs no JavaScript")


class Missing(NotImplementedError, AttributeError):
    """`hasattr` is told that it is not there."""

    __module__ = "js"


class Absent:
    """Something that can be imported, so that the rest of a program runs, and not be used."""

    def __init__(self, name: str, why: str) -> None:
        self._words = f"js.{name} does not exist in a sandbox: {why}"

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(self._words)

    def __getattr__(self, _: str) -> Any:
        raise Missing(self._words)
