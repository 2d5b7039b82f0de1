"""How a shard's process comes by the function that makes its host: a name that means the same in another process.

Nothing is copied from one process to the other but the name; what the function needs, its module makes anew.
"""

from __future__ import annotations

import importlib
import inspect
import runpy
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from ..host import Host
from .place import Shard

Factory = Callable[[Shard], Host | Awaitable[Host]]
MAIN: Final = "__cloister_shard__"
"""What `__name__` is in a shard's process where the function is in the program itself."""
_ADVICE: Final = (
    "a shard is a process of its own, which imports the function: give one from the top of a module, or its name as "
    "'module:function'"
)


def named(factory: Factory | str) -> tuple[str, str, str]:
    """The same as a name: a module, or a file, and a name in it. `ValueError`, `TypeError`."""
    if isinstance(factory, str):
        module, colon, name = factory.partition(":")
        if not (module and colon and name):
            raise ValueError(f"{factory!r:.80} is no 'module:function'")
        return module, "", name
    if not callable(factory):
        raise TypeError(f"a function from a Shard to its Host is needed, not {type(factory).__name__}: {_ADVICE}")
    module, name = str(getattr(factory, "__module__", "")), getattr(factory, "__qualname__", "<object>")
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    if there != factory:  # a lambda, what is inside a function, a method of some object
        raise ValueError(f"{name} cannot be found from another process: {_ADVICE}")
    if module != "__main__":
        return module, "", name
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":  # `python -m`
        return spec.name, "", name
    if file is None or not Path(file).is_file():
        raise ValueError(f"{name} is in no file: {_ADVICE}")
    return "", str(Path(file).absolute()), name


def found(module: str, file: str, name: str) -> Factory:
    """The function of that name."""
    subject: Any = _program(file) if file else vars(importlib.import_module(module))
    first, *rest = name.split(".")
    if first not in subject:
        raise ImportError(
            f"{file or module} has no {first!r} when a shard imports it; it may be made only in `__main__`"
        )
    subject = subject[first]
    for part in rest:
        subject = getattr(subject, part)
    return subject  # type: ignore[no-any-return]


def _program(file: str) -> dict[str, Any]:
    """What the program itself has, run once more as a module: it stays one, as what it defines may look for it."""
    module = sys.modules[MAIN] = types.ModuleType(MAIN)
    try:
        vars(module).update(runpy.run_path(file, run_name=MAIN))
    except Exception as error:
        error.add_note(
            f"a shard runs {file} once more, under another name, for the function in it: what is to be done only once "
            'stands under `if __name__ == "__main__":`'
        )
        raise
    return vars(module)


async def made(factory: Factory, shard: Shard) -> Host:
    """The host of a shard, yet to be opened."""
    host = factory(shard)
    host = await host if inspect.isawaitable(host) else host
    if not isinstance(host, Host):
        raise TypeError(f"the function gave {type(host).__name__} for a shard, and not its Host")
    return host
