"""A tenant's modules, imported from memory: source text, and text, data and JSON files as modules of one value.

Names are paths, as in a folder: `main.py`, `shop/__init__.py`, `shop/prices.py`, `motd.txt`. The tenant's own modules
come before the standard library's, as they would if they lay beside the main module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

Modules = Mapping[str, tuple[str, Any]]
"""Name: kind ("py", "text", "data" or "json") and content."""


class Tenant(importlib.abc.Loader):
    """Finds and loads the tenant's modules, and hands out its files."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._places: dict[str, tuple[str, bool]] = {}
        for path in modules:
            if path.endswith(".py"):
                parts = path.removesuffix(".py").split("/")
                package = parts[-1] == "__init__"
                self._places[".".join(parts[:-1] if package else parts)] = (path, package)
        for path in modules:  # a folder without __init__.py is a package too
            parts = path.split("/")[:-1]
            for end in range(1, len(parts) + 1):
                self._places.setdefault(".".join(parts[:end]), ("", True))

    def import_main(self, path: str) -> types.ModuleType:
        """Import the main module under the name that its path gives it.

        By hand, since the import system's own way would take three times as many pages of a fresh sandbox.
        """
        name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        package = name if self._places[name][1] else name.rpartition(".")[0]
        if package and package != name:
            importlib.import_module(package)
        module = types.ModuleType(name)
        module.__file__, module.__package__, module.__loader__ = path, package, self
        module.__spec__ = self.find_spec(name)
        if package == name:
            module.__path__ = []
        sys.modules[name] = module
        self.exec_module(module)
        return sys.modules[name]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        place = self._places.get(name)
        if place is None:
            return None
        spec = importlib.util.spec_from_loader(name, self, origin=place[0] or None, is_package=place[1])
        if spec is not None:
            spec.has_location = bool(place[0])
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Compile the source and run it; tracebacks can show its lines from now on."""
        path, _ = self._places[module.__name__]
        if path:
            source = self.get_source(module.__name__)
            linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name: str) -> str:
        """The source of a module."""
        return str(self._modules[self._places[name][0]][1]) if self._places[name][0] else ""

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self._places[name][1]

    def get_data(self, path: str) -> bytes:
        """A file's bytes, for `pkgutil.get_data`."""
        try:
            kind, content = self._modules[path.removeprefix("./")]
        except KeyError:
            raise FileNotFoundError(path) from None
        if kind == "json":
            return json.dumps(content).encode()
        return content if isinstance(content, bytes) else str(content).encode()

    @property
    def names(self) -> frozenset[str]:
        """The names under which the tenant's modules are imported."""
        return frozenset(self._places)

    @property
    def paths(self) -> frozenset[str]:
        """The names of all modules and files: what a traceback of the tenant's own may show."""
        return frozenset(self._modules)


def install(tenant: Tenant) -> None:
    """Put the tenant's modules before everything but what is built in, also before what was imported already."""
    sys.meta_path.insert(2, tenant)
    for name in tenant.names:
        if name.partition(".")[0] not in {"workers", "cloister"}:
            sys.modules.pop(name, None)
