"""A folder or a wheel as a `WorkerCode`, and the same as one file to be kept or sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.ipc.errors import IpcError

from ..errors import InvalidCode
from . import packages, project
from .errors import CannotBundle
from .files import modules_of

if TYPE_CHECKING:
    from ..code import WorkerCode

Place = str | os.PathLike[str]


def from_folder(
    kind: type[WorkerCode], path: Place, *, main: str | None = None, resolve: bool = True,
    index: Sequence[str] = (), **options: Any,
) -> WorkerCode:  # fmt: skip
    """See `WorkerCode.from_folder`."""
    found = project.read(Path(path), main)
    preload = tuple(options.get("preload", ()))
    needed = packages.bundled(found.needs, preload, index) if resolve else {}
    options.setdefault("compatibility_date", found.compatibility_date)
    options.setdefault("compatibility_flags", found.compatibility_flags)
    options["env"] = {**found.vars, **options.get("env", {})}
    own = modules_of(found.root)
    return kind(main_module=found.main.name, modules={**needed, **own}, **options)


def from_wheel(
    kind: type[WorkerCode], path: Place, *, main: str, index: Sequence[str] = (), **options: Any
) -> WorkerCode:
    """See `WorkerCode.from_wheel`."""
    modules = packages.from_wheel(Path(path), tuple(options.get("preload", ())), index)
    name = main if main.endswith(".py") else f"{main.replace('.', '/')}.py"
    if name not in modules and f"{name.removesuffix('.py')}/__init__.py" in modules:
        name = f"{name.removesuffix('.py')}/__init__.py"
    if name not in modules:
        raise CannotBundle(f"the wheel has no module {main!r}")
    return kind(main_module=name, modules=modules, **options)


def from_bundle(kind: type[WorkerCode], path: Place, **options: Any) -> WorkerCode:
    """See `WorkerCode.from_bundle`."""
    blank = kind(main_module="main.py", modules={"main.py": ""}, **options)
    try:
        return blank.with_stored(Path(path).read_bytes())
    except (OSError, IpcError, InvalidCode) as error:
        raise CannotBundle(f"{path} is no bundle: {error}") from error
