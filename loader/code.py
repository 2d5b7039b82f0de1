"""A tenant's code as a value: modules, entry, bindings and limits, checked when it is made, and known by its digest."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from cloister.engine import PinnedCode
from cloister.ipc import RpcTarget, values
from cloister.ipc.errors import IpcError
from cloister.sandbox import Limits, check_preload

from .compatibility import check as check_compatibility
from .errors import InvalidCode, LoadFailed
from .tails import StreamingTail, Tail

MAX_CODE_BYTES: Final = 8 * 1024 * 1024
MAX_ENV_BYTES: Final = 1024 * 1024
"""Of the plain values in an `env`: what is larger is a module, or behind a binding."""
_BROUGHT: Final = "python_modules/"
"""Where packages lie that a worker brings along, as Cloudflare has them."""
_NO_NAMES: Final = frozenset({"", ".", ".."})
_NEEDS_COMPILING: Final = (".ts", ".tsx", ".jsx", ".js", ".mjs", ".cjs")


@dataclass(frozen=True, slots=True)
class Text:
    """A module whose content is text, to be read with `pkgutil.get_data`."""

    content: str


@dataclass(frozen=True, slots=True)
class Data:
    """A module whose content is bytes."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Json:
    """A module whose content is a JSON value."""

    content: Any


Module = str | Text | Data | Json
_USUAL: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCode:
    """What runs for a tenant. `InvalidCode` says what contradicts itself.

    `modules` maps paths to source text (`.py`), `Text`, `Data` or `Json`, 8 MiB in all; packages may lie under
    `python_modules/`, where every file may be given as text. `env` holds plain values, 1 MiB in all, `RpcTarget`s,
    functions and wrapped workflow bindings. `global_outbound=None` means no network at all; a `Fetcher`, or anything
    that has a `fetch`, serves `workers.fetch`, and `urllib`, `requests` and `httpx` in the tenant's code.
    """

    main_module: str
    modules: Mapping[str, Module]
    env: Mapping[str, Any] = field(default_factory=dict)
    global_outbound: RpcTarget | None = None
    tails: tuple[Tail, ...] = ()
    """Get a `TailEvent` for each invocation, after its answer: functions, or entrypoints with `tail(events)`."""
    streaming_tails: tuple[StreamingTail, ...] = ()
    """Get a `TailStart` for each invocation, each `TailLine` as it is printed or logged, and a `TailEvent` without
    lines at the end."""
    limits: Limits = _USUAL
    compatibility_date: str = ""
    """As Cloudflare's runtime has it, such as "2026-04-21". Without one, older forms are served beside the newer."""
    compatibility_flags: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    """Modules of the host's that this code needs imported before the lockdown, since they are not written in Python.
    Sandboxes are forked from a zygote that has imported them, which all workers with the same list share."""

    def __post_init__(self) -> None:
        if tuple(map(type, _fields(self))) != _USUAL_TYPES:
            _check_types(self)
        if not self.modules:
            raise InvalidCode("a worker needs at least one module")
        if self.main_module not in self.modules:
            raise InvalidCode(f"main_module {self.main_module!r} is not among the modules: {', '.join(self.modules)}")
        if self.main_module.startswith(_BROUGHT):
            raise InvalidCode(f"main_module {self.main_module!r} is among the packages that are brought along")
        if not self.main_module.endswith(".py"):
            raise InvalidCode(f"main_module {self.main_module!r} must be a Python module, its name ending in .py")
        modules = _unfolded({name: _checked(name, module) for name, module in self.modules.items()})
        size = sum([_size(name, module) for name, module in modules.items()])
        if size > MAX_CODE_BYTES:
            raise InvalidCode(f"the modules take {size:,} bytes in all; at most {MAX_CODE_BYTES:,} can be loaded")
        if self.global_outbound is not None and not callable(getattr(self.global_outbound, "fetch", None)):
            raise InvalidCode("global_outbound is None, for no network at all, or has a fetch(), as a Fetcher has")
        try:
            check_compatibility(self.compatibility_date, self.compatibility_flags)
            check_preload("preload", self.preload)
        except ValueError as error:
            raise InvalidCode(str(error)) from error
        for name in self.env:
            if not isinstance(name, str) or not name.isidentifier():
                raise InvalidCode(f"env name {name!r} is not an identifier, so no tenant could use it")
        _check_env(self.env)
        for tail in (*self.tails, *self.streaming_tails):
            if not callable(tail) and not hasattr(type(tail), "handle"):
                raise InvalidCode(f"a tail is a function or an entrypoint, not {type(tail).__name__}")
        keep = object.__setattr__  # what the host does to its own afterwards changes nothing here
        keep(self, "modules", modules)
        keep(self, "env", dict(self.env))
        keep(self, "tails", tuple(self.tails))
        keep(self, "streaming_tails", tuple(self.streaming_tails))

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], *, main: str | None = None, resolve: bool = True, **options: Any
    ) -> WorkerCode:
        """A program as its author has it: the files beside its main module, and the packages that it needs.

        What `wrangler.jsonc` or `wrangler.toml` and `pyproject.toml` or `requirements.txt` say holds unless it is said
        here: the main module, the compatibility date, the `vars` of its env, and the packages, which are resolved by uv
        or pip unless `resolve` is False (`index` are options for it). `options` are `WorkerCode`'s. `CannotBundle` has
        the reasons. Takes as long as pip does: call it in a thread.
        """
        from .bundle import worker

        return worker.from_folder(cls, path, main=main, resolve=resolve, **options)

    @classmethod
    def from_wheel(cls, path: str | os.PathLike[str], *, main: str, **options: Any) -> WorkerCode:
        """A program that is a wheel, with the packages that it needs; `main` is its main module, such as
        `shop.worker`. See `from_folder`.
        """
        from .bundle import worker

        return worker.from_wheel(cls, path, main=main, **options)

    @classmethod
    def from_bundle(cls, path: str | os.PathLike[str], **options: Any) -> WorkerCode:
        """What `cloister bundle` has written, with the bindings and limits that are given here."""
        from .bundle import worker

        return worker.from_bundle(cls, path, **options)

    @property
    def digest(self) -> bytes:
        """SHA-256 over modules, main module and compatibility: what decides how the code behaves, and no authority."""
        return self.pinned().digest

    def pinned(self) -> PinnedCode:
        """What an engine ties an instance to."""
        stored = self.stored()
        return PinnedCode(hashlib.sha256(stored).digest(), stored)

    def portable(self) -> dict[str, list[Any]]:
        """The modules as they are sent to a sandbox."""
        return {name: _portable(module) for name, module in self.modules.items()}

    def stored(self) -> bytes:
        """Modules, main module and compatibility as bytes, to be kept beside the runs that need them."""
        modules = sorted(self.portable().items())
        known = [self.main_module, modules, self.compatibility_date, sorted(self.compatibility_flags)]
        return values.dumps([2, *known, sorted(self.preload)] if self.preload else [1, *known], exact=True)

    def with_stored(self, stored: bytes) -> WorkerCode:
        """This code's bindings and limits, which are live, around modules that were stored earlier."""
        match values.loads(stored, trusted=True):
            case [1 | 2, str(main), list(modules), str(date), list(flags), *preload]:
                made = {name: _module(kind, content) for name, (kind, content) in modules}
                return WorkerCode(
                    main_module=main, modules=made, env=self.env, tails=self.tails,
                    streaming_tails=self.streaming_tails, limits=self.limits,
                    global_outbound=self.global_outbound,
                    compatibility_date=date, compatibility_flags=tuple(flags),
                    preload=tuple(name for names in preload for name in names),
                )  # fmt: skip
        raise InvalidCode("the stored code was written by a newer version")


GetCode = Callable[[], WorkerCode | Awaitable[WorkerCode]]
"""The host's function that gives a tenant's code; it is called only when the code is needed."""


_FIELDS: Final[dict[str, tuple[Any, str]]] = {
    "main_module": (str, "the name of a module"),
    "modules": (Mapping, "a map from names to modules"),
    "env": (Mapping, "a map from names to values and capabilities"),
    "tails": (Sequence, "a tuple of functions or entrypoints"),
    "streaming_tails": (Sequence, "a tuple of functions or entrypoints"),
    "limits": (Limits, "Limits(...)"),
    "compatibility_date": (str, "a date as text"),
    "compatibility_flags": (Sequence, "a tuple of names"),
}
"""What each field is, where nothing else checks it."""
_fields: Final = attrgetter(*_FIELDS)
_USUAL_TYPES: Final = (str, dict, dict, tuple, tuple, Limits, str, tuple)
"""What they mostly are, which is right without a doubt; to ask an abstract class takes a microsecond."""


def _check_types(code: WorkerCode) -> None:
    for name, (kind, words) in _FIELDS.items():
        value = getattr(code, name)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str | bytes)):
            raise InvalidCode(f"{name} is {words}, not {type(value).__name__}")


def _checked(name: str, module: Any) -> Module:
    """A module, as a copy where its content could change."""
    if not isinstance(name, str) or not _NO_NAMES.isdisjoint(name.split("/")):
        raise InvalidCode(f"module name {name!r} is not a relative path of plain names")
    if type(module) is str and name.endswith(".py"):
        return module
    content: Any = getattr(module, "content", None)
    match module:
        case str() if name.startswith(_BROUGHT) and not name.endswith(".py"):
            return Text(module)
        case str() if name.endswith(_NEEDS_COMPILING):
            raise InvalidCode(f"module {name!r} is JavaScript or TypeScript; a worker here is Python")
        case str() if not name.endswith(".py"):
            raise InvalidCode(f"module {name!r} is given as plain text; wrap it in Text(...), or end its name in .py")
        case str():
            return module
        case Text() if isinstance(content, str):
            return module
        case Data() if isinstance(content, bytes | bytearray | memoryview):
            return Data(bytes(content))
        case Json():
            try:
                return Json(json.loads(json.dumps(content)))
            except (TypeError, ValueError) as error:
                raise InvalidCode(f"module {name!r}: {error}") from error
        case Text() | Data():
            given = f"{type(module).__name__}({type(content).__name__})"
            raise InvalidCode(f"module {name!r} is {given}; it must be Text(str) or Data(bytes)")
    raise InvalidCode(f"module {name!r} is {type(module).__name__}; it must be source text, Text, Data or Json")


def _unfolded(modules: dict[str, Module]) -> dict[str, Module]:
    """What lies under `python_modules/` is found as if it lay beside the main module, behind what does lie there."""
    if not [name for name in modules if name.startswith(_BROUGHT)]:
        return modules
    brought = {name.removeprefix(_BROUGHT): module for name, module in modules.items() if name.startswith(_BROUGHT)}
    return brought | {name: module for name, module in modules.items() if not name.startswith(_BROUGHT)}


def _size(name: str, module: Module) -> int:
    """How many bytes it takes."""
    try:
        if isinstance(module, str):  # in a third of the time, which is most of what it takes to make a worker's code
            return len(module.encode())
        return len(values.dumps(_portable(module), limit=MAX_CODE_BYTES))
    except (IpcError, TypeError, ValueError) as error:
        raise InvalidCode(f"module {name!r}: {error}") from error


def _check_env(env: Mapping[str, Any]) -> None:
    if not env:
        return
    try:
        size = len(values.dumps(dict(env), export=lambda _: b""))
    except IpcError as error:
        raise InvalidCode(f"env: {error}") from error
    if size > MAX_ENV_BYTES:
        raise InvalidCode(
            f"the env takes {size:,} bytes; at most {MAX_ENV_BYTES:,} can be given, and a module may hold more"
        )


def _portable(module: Module) -> list[Any]:
    match module:
        case str():
            return ["py", module]
        case Text(content):
            return ["text", content]
        case Data(content):
            return ["data", content]
        case Json(content):
            return ["json", content]


def _module(kind: str, content: Any) -> Module:
    makers: dict[str, Callable[[Any], Module]] = {"py": str, "text": Text, "data": Data, "json": Json}
    return makers[kind](content)


async def load_code(get_code: GetCode) -> WorkerCode:
    """Call the host's function. `LoadFailed` says that it was the host's, and what it raised."""
    try:
        code = get_code()
        if inspect.isawaitable(code):
            code = await code
    except InvalidCode:
        raise
    except Exception as error:
        raise LoadFailed(f"the host's get_code raised {type(error).__name__}: {error}") from error
    if not isinstance(code, WorkerCode):
        raise LoadFailed(f"the host's get_code returned {type(code).__name__}; it must return a WorkerCode")
    return code
