"""What of a program would not run in a sandbox, as far as its source tells. Nothing of it is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cloister.sandbox.guest import workers
from cloister.sandbox.guest.foreign import js
from cloister.sandbox.guest.native import ABSENT

from . import packages, project
from .errors import CannotBundle

Level = Literal["error", "warning"]
_OURS: Final = frozenset("workers asgi wsgi js pyodide cloudflare _cloudflare_compat_flags".split())
_FFI: Final = frozenset("code runPython eval_code micropip pyodide_js".split())
_OLDER: Final = frozenset({"on_fetch", "on_scheduled"})
_CALLS: Final = {
    "open": ("warning", "no file can be opened in a sandbox, but for what the worker brings along, and below /tmp"),
    "subprocess.run": ("error", "no process can be started in a sandbox"),
    "subprocess.Popen": ("error", "no process can be started in a sandbox"),
    "subprocess.check_output": ("error", "no process can be started in a sandbox"),
    "os.system": ("error", "no process can be started in a sandbox"),
    "os.fork": ("error", "no process can be started in a sandbox"),
    "socket.socket": ("error", "no socket can be opened in a sandbox; fetch, urllib and httpx reach what is granted"),
    "socket.create_connection": ("error", "no socket can be opened in a sandbox"),
    "import_from_javascript": ("error", "there are no modules of JavaScript in a sandbox"),
    "asyncio.run": ("warning", "a loop is running already: await instead"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would not run, or might not."""

    file: str
    line: int
    level: Level
    words: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.level}: {self.words}"


def check(path: Path, preload: Sequence[str] = ()) -> list[Finding]:
    """Look at a file, or at all files of a folder's program. `CannotBundle` if there is none."""
    found = project.read(path, None) if path.is_dir() else project.Project(path)
    if not found.main.is_file():
        raise CannotBundle(f"{path} is neither a file nor a folder")
    if found.main.suffix != ".py":
        raise CannotBundle(f"{path} is no source of Python (.py): name the file, or the folder, that it was made from")
    root = found.root
    files = sorted(root.rglob("*.py")) if path.is_dir() else [found.main]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    own = {file.relative_to(root).parts[0].removesuffix(".py") for file in sorted(root.rglob("*.py"))}
    known = own | {name.partition(".")[0] for name in preload} | _imported_as(found.needs)
    findings: list[Finding] = []
    for file in files:
        findings += _Look(file, root, known, main=file == found.main).findings()
    return findings


def _imported_as(needs: Sequence[str]) -> set[str]:
    """Likely names of modules of what is needed: whether it can be had, the bundler says."""
    return {packages.canonical(packages._name(need)).replace("-", "_") for need in needs}


class _Look:
    """At one file."""

    def __init__(self, file: Path, root: Path, known: set[str], *, main: bool) -> None:
        self._file, self._name, self._known, self._main = file, file.relative_to(root).as_posix(), known, main

    def findings(self) -> list[Finding]:
        """What was found, by line."""
        try:
            tree = ast.parse(self._file.read_bytes(), self._name)
        except (SyntaxError, ValueError) as error:
            return [self._finding(getattr(error, "lineno", 0) or 0, "error", f"it does not compile: {error}")]
        found = [finding for node in ast.walk(tree) for finding in self._node(node)]
        if self._main and not _has_entrypoint(tree):
            found.append(self._finding(1, "error", "it defines no entrypoint: no class derives from WorkerEntrypoint,"
                                                   " WorkflowEntrypoint or DurableObject"))  # fmt: skip
        return sorted(found, key=lambda finding: finding.line)

    def _node(self, node: ast.AST) -> Iterator[Finding]:
        match node:
            case ast.Import(names):
                for alias in names:
                    yield from self._module(node.lineno, alias.name)
            case ast.ImportFrom(str(module), names, 0):
                yield from self._module(node.lineno, module)
                for alias in names:
                    yield from self._member(node.lineno, module, alias.name)
            case ast.Attribute(ast.Name("js"), name):
                yield from self._member(node.lineno, "js", name)
            case ast.Call(function) if (told := _CALLS.get(_dotted(function))) is not None:
                yield self._finding(node.lineno, "error" if told[0] == "error" else "warning", told[1])

    def _module(self, line: int, module: str) -> Iterator[Finding]:
        top = module.partition(".")[0]
        if (reason := ABSENT.get(module) or ABSENT.get(top)) is not None:
            yield self._finding(line, "error", f"there is no {module} in a sandbox: {reason}")
        elif top not in self._known | _OURS | sys.stdlib_module_names:
            words = f"{module} is not among the program's modules, nor what it says that it needs"
            if top == "src":
                words = f"import {module.removeprefix('src.')}: the main module's folder is where imports begin"
            yield self._finding(line, "error", words)

    def _member(self, line: int, module: str, name: str) -> Iterator[Finding]:
        if module == "js":
            if not any(name in names.split() for names in js._LATER.values()) and name != "globalThis":
                why = js._ABSENT.get(name, "this is CPython, and runs no JavaScript")
                yield self._finding(line, "error", f"there is no js.{name} in a sandbox: {why}")
        elif module == "workers" and name != "*" and name not in _NAMES:
            yield self._finding(line, "error", f"workers has no {name}")
        elif module == "pyodide" and name in _FFI:
            yield self._finding(line, "error", f"pyodide.{name} is of another runtime")

    def _finding(self, line: int, level: Level, words: str) -> Finding:
        return Finding(self._name, line, level, words)


_NAMES: Final = {*workers.__all__, *" ".join(workers._LATER.values()).split()} | frozenset(
    "asgi entrypoints rpc types utils workflows wsgi".split()
)


def _has_entrypoint(tree: ast.Module) -> bool:
    """A class that derives from something, an older handler, or a name that may be a class from elsewhere."""
    for node in tree.body:
        match node:
            case ast.ClassDef(_, [_, *_]) | ast.Assign([ast.Name("Default")]):
                return True
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) if name in _OLDER:
                return True
            case ast.ImportFrom(module, names) if module != "workers":
                if any(alias.name == "*" or alias.name[:1].isupper() for alias in names):
                    return True
    return False


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{_dotted(value)}.{name}"
    return ""
