"""A tenant's modules, imported from memory: source text, and text, data and JSON files as modules of one value.

Names are paths, as in a folder: `main.py`, `shop/__init__.py`, `shop/prices.py`, `motd.txt`. The tenant's own modules
come before the standard library's, as they would if they lay beside the main module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import linecache
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from . import resources

Modules = Mapping[str, tuple[str, Any]]
"""Name: kind ("py", "text", "data" or "json") and content."""


class Tenant(importlib.abc.Loader):
    """Finds and loads the tenant's modules, and hands out its files."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._places: dict[str, tuple[str, bool]] = {}
        for path, (kind, _) in modules.items():
            if kind == "py":
                parts = path.removesuffix(".py").split("/")
                package = parts[-1] == "__init__"
                self._places[".".join(parts[:-1] if package else parts)] = (path, package)
        for path in modules:  # a folder without __init__.py is a package too, unless the library has one of that name
            parts = path.split("/")[:-1]
            if parts and parts[0] not in sys.stdlib_module_names:
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
            module.__path__ = [name.replace(".", "/")]
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
        spec = importlib.machinery.ModuleSpec(name, self, origin=place[0] or None, is_package=place[1])
        spec.has_location = bool(place[0])
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(name.replace(".", "/"))
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Compile the source and run it; tracebacks can show its lines from now on."""
        path, _ = self._places[module.__name__]
        if path:
            name = module.__name__
            linecache.cache[path] = (lambda: self.get_source(name),)  # what `linecache.lazycache` does in more pages
            run(self.get_code(module.__name__), module)

    def get_code(self, name: str) -> types.CodeType:
        """The compiled source of a module."""
        code: types.CodeType = compile(self.get_source(name), self._places[name][0], "exec", dont_inherit=True)
        return code

    def get_source(self, name: str) -> str:
        """The source of a module."""
        return str(self._modules[self._places[name][0]][1]) if self._places[name][0] else ""

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self._places[name][1]

    def get_data(self, path: str) -> bytes:
        """A file's bytes, for `pkgutil.get_data`."""
        try:
            kind, content = self._modules[resources.plain(path)]
        except KeyError:
            raise FileNotFoundError(path) from None
        if kind == "json":
            return json.dumps(content).encode()
        return content if isinstance(content, bytes) else str(content).encode()

    def get_resource_reader(self, name: str) -> resources.Reader:
        """The files beside a module, for `importlib.resources`."""
        folder = name if self.is_package(name) else name.rpartition(".")[0]
        return resources.Reader(resources.Entry(self._modules, self.get_data, folder.replace(".", "/")))

    def find_distributions(self, context: Any) -> Iterator[Any]:
        """What came along with its `.dist-info`, for `importlib.metadata`."""
        distributions = importlib.import_module(f"{__package__}.distributions")
        found: Iterator[Any] = distributions.find(resources.Entry(self._modules, self.get_data, ""), context)
        return found

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """The top-level modules, for `pkgutil`."""
        return resources.children(self._places, "", prefix)

    def below(self, path: str) -> resources.Below:
        """What is in a package, for `pkgutil`."""
        return resources.Below(self._places, path.replace("/", "."))

    @property
    def names(self) -> frozenset[str]:
        """The names under which the tenant's modules are imported."""
        return frozenset(self._places)

    @property
    def paths(self) -> frozenset[str]:
        """The names of all modules and files: what a traceback of the tenant's own may show."""
        return frozenset(self._modules)


CONNECTS = frozenset(
    "http.client urllib.request urllib3.connection requests.adapters certifi.core httpx._transports.default".split()
)
"""Modules that would open sockets, or look for what is needed to."""
PRETENDS: Final = frozenset({"anyio._core._sockets", "anyio.streams.tls"})
"""Modules that import `ssl` for what they can do with sockets, among other things that they can do without."""


def run(code: types.CodeType, module: types.ModuleType) -> None:
    """Run a module's code in it."""
    if module.__name__ in PRETENDS:
        importlib.import_module(f"{__package__}.pretence").run(code, module)
    else:
        exec(code, module.__dict__)
    connect(module)


def connect(module: types.ModuleType) -> None:
    """One of them that was just imported reaches the network by way of the host from now on."""
    if module.__name__ in CONNECTS:
        importlib.import_module(f"{__package__}.transports").connect(module)


def install(tenant: Tenant) -> None:
    """Put the tenant's modules before everything but what is built in, also before what was imported already."""
    for name in CONNECTS & sys.modules.keys():
        connect(sys.modules[name])
    sys.meta_path.insert(2, tenant)
    for name in tenant.names:
        if name.partition(".")[0] not in {"workers", "cloister"} and sys.modules.pop(name, None) is not None:
            for other in [other for other in sys.modules if other.startswith(f"{name}.")]:
                del sys.modules[other]  # what is in a package goes with it
