"""Where modules say that they come from: `<library>`, whatever folder of the host they were read from.

Module attributes, the code of functions, `sys.prefix` and `sysconfig` would otherwise tell every tenant how the host is
installed, and show it in tracebacks. The zygote corrects them once, before anybody is forked.
"""

from __future__ import annotations

import _imp
import gc
import importlib
import importlib.abc
import linecache
import logging
import sys
import types
from typing import Any, Final

ROOT: Final = "<library>"


def folder(name: str) -> str:
    """The `__path__` of a package."""
    return f"{ROOT}/{name.replace('.', '/')}"


def place(name: str, package: bool) -> str:
    """The `__file__` of a module."""
    return f"{folder(name)}/__init__.py" if package else f"{folder(name)}.py"


def package(path: str) -> str:
    """The name of the package that has a `__path__`. `ImportError` where no package can have it."""
    if not path.startswith(f"{ROOT}/"):
        raise ImportError(f"there is nothing at {path!r}", path=path)
    return path.removeprefix(f"{ROOT}/").replace("/", ".")


def put_on(loader: importlib.abc.Loader) -> None:
    """Correct everything that was imported so far. What has a source was loaded by `loader`, it will say."""
    places = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and module.__spec__ is not None:
            old, new = getattr(module, "__file__", None), _move(name, module, module.__spec__, loader)
            if old is not None:
                places[old] = new
    for subject in gc.get_objects():
        if type(subject) is types.FunctionType:
            if known := places.get(subject.__code__.co_filename):
                _imp._fix_co_filename(subject.__code__, known)  # type: ignore[attr-defined]
        elif type(subject) is dict and subject.get("__file__", 0) in places:  # some modules in C keep a copy of theirs
            subject["__file__"] = places[subject["__file__"]]
    logging._srcfile = places.get(logging._srcfile, logging._srcfile)
    linecache.clearcache()
    main = vars(sys.modules["__main__"])
    main.clear()
    main["__name__"] = "__main__"
    _move_interpreter()


def _move(name: str, module: types.ModuleType, spec: Any, loader: importlib.abc.Loader) -> str:
    is_package = hasattr(module, "__path__")
    new = place(spec.name, is_package)
    if is_package:
        module.__path__ = spec.submodule_search_locations = [folder(spec.name)]
        spec.loader = module.__loader__ = loader
    if spec.loader_state is not None:  # of a frozen one
        spec.loader_state.filename = new
    if hasattr(module, "__file__"):
        module.__file__ = new
        if spec.has_location:
            spec.has_location, spec.origin, spec.cached = False, new, None
            spec.loader = module.__loader__ = loader
    if hasattr(module, "__cached__"):
        del module.__cached__
    return new


def _move_interpreter() -> None:
    """`sys` and `sysconfig` speak of an interpreter in the usual place, about whose making nothing is known."""
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        setattr(sys, name, "/usr")
    sys.executable = sys._base_executable = ""  # type: ignore[attr-defined]
    sys._stdlib_dir = ROOT  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):
        if name == "sysconfig" or name.startswith("_sysconfigdata"):
            importlib.reload(module)
    settings: Any = sys.modules["sysconfig"]
    schemes = settings._INSTALL_SCHEMES  # the usual one may be its distributor's own, all but this
    schemes[settings.get_default_scheme()] = schemes["posix_venv"]
    settings.get_makefile_filename = lambda: "/usr/Makefile"  # where it would be may be a path of the host
