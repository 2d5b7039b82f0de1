"""`workers.utils`: what is asked for by programs of an older form, and by tests."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cloister.sandbox.guest import scope


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of `on_fetch` and the like: the request is a `Request` in any case."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@contextlib.contextmanager
def patch_env(d: Mapping[str, Any] | None = None, /, **names: Any) -> Iterator[None]:
    """Within it `env` has these names and no others."""
    env, before = scope.env(), dict(scope.env())
    env.clear()
    env.update({**(d or {}), **names})
    try:
        yield
    finally:
        env.clear()
        env.update(before)


def import_from_javascript(module_name: str) -> Any:
    """`cloudflare:email`, for its `EmailMessage`. `ImportError` for any other: there is no JavaScript here."""
    if module_name == "cloudflare:email":
        return importlib.import_module("cloister.sandbox.guest.mails")
    raise ImportError(
        f"{module_name!r} is a module of JavaScript, and there is none in a sandbox. What `cloudflare:workers` has is "
        "in the Python module `workers`",
        name=module_name,
    )


def python_to_js(value: Any, *_: Any, **__: Any) -> Any:
    """See `pyodide.ffi.to_js`."""
    return importlib.import_module("pyodide.ffi").to_js(value)
