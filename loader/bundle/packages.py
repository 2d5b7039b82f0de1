"""Packages that a program needs, resolved on the host and taken apart into modules.

They are only taken ready made, as wheels: nothing of them is run here. What is written in Python comes along as the
tenant's own modules; what is not has to be in the runtime profile, where the host has installed it.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import CannotBundle
from .files import NATIVE, module_of

if TYPE_CHECKING:
    from ..code import Module

OF_THE_RUNTIME: Final = frozenset({"workers-py", "workers-runtime-sdk", "webtypy", "pyodide-py", "cloister"})
"""Distributions that stand for what is there in any case."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WITHIN: Final = 300.0
_LEFT: Final = frozenset({".pyc", ".pyi", ".pth", ".typed"})


def bundled(needs: Sequence[str], preload: Sequence[str], index: Sequence[str] = ()) -> dict[str, Module]:
    """The modules of everything that is needed, but for what the profile has. `CannotBundle` says what is in the way.

    `index` are options for pip or uv, such as `("--index-url", "https://...")`.
    """
    wanted = [need for need in needs if canonical(_name(need)) not in OF_THE_RUNTIME]
    if not wanted:
        return {}
    there = provided(preload)
    with tempfile.TemporaryDirectory(prefix="cloister-bundle-") as folder:
        target = Path(folder) / "packages"
        _install(wanted, target, index)
        return taken_apart(target, there)


def from_wheel(file: Path, preload: Sequence[str], index: Sequence[str] = ()) -> dict[str, Module]:
    """The modules of a wheel, and of what it needs."""
    with tempfile.TemporaryDirectory(prefix="cloister-bundle-") as folder:
        target = Path(folder) / "wheel"
        try:
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(target)
        except (OSError, zipfile.BadZipFile) as error:
            raise CannotBundle(f"{file} is no wheel: {error}") from error
        if not any(target.glob("*.dist-info/METADATA")):
            raise CannotBundle(f"{file} is no wheel: it has no .dist-info")
        modules = taken_apart(target, provided(preload))
        needs = [need for one in importlib.metadata.distributions(path=[str(target)]) for need in _wanted(one)]
    return {**bundled(needs, preload, index), **modules}


def taken_apart(target: Path, there: Iterable[str]) -> dict[str, Module]:
    """The files of what was installed into a folder. Whatever is in the way is said at once."""
    found: dict[str, Module] = {}
    reasons = []
    known = frozenset(there)
    for one in sorted(importlib.metadata.distributions(path=[str(target)]), key=lambda one: one.name):
        if canonical(one.name) in known | OF_THE_RUNTIME:
            continue
        native = [file for file in one.files or () if file.suffix in NATIVE]
        if native:
            top = native[0].parts[0].partition(".")[0]
            reasons.append(
                f"{one.name} {one.version} is not written in Python alone ({native[0].name}): the host has to install"
                f" it, and name it in preload=({top!r},)"
            )
            continue
        for name, file in _own(one, target):
            found[name] = module_of(name, file.read_bytes())
    if reasons:
        raise CannotBundle(*reasons)
    return found


def provided(preload: Sequence[str]) -> set[str]:
    """The distributions that modules of the profile belong to, and all that those need: the host has them."""
    owners = importlib.metadata.packages_distributions() if preload else {}
    todo = [name for module in preload for name in owners.get(module.partition(".")[0], [])]
    found: set[str] = set()
    while todo:
        name = canonical(todo.pop())
        if name not in found:
            found.add(name)
            try:
                todo += map(_name, _wanted(importlib.metadata.distribution(name)))
            except importlib.metadata.PackageNotFoundError:
                found.discard(name)
    return found


def canonical(name: str) -> str:
    """A distribution's name in one form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _name(need: str) -> str:
    found = _NAME.match(need.strip())
    if found is None:
        raise CannotBundle(f"{need!r:.80} is no requirement")
    return found[0]


def _wanted(one: importlib.metadata.Distribution) -> list[str]:
    """What it needs in any case: not its extras."""
    return [need for need in one.requires or () if "extra ==" not in need.partition(";")[2].replace("'", '"')]


def _own(one: importlib.metadata.Distribution, target: Path) -> Iterator[tuple[str, Path]]:
    for entry in one.files or ():
        file = Path(str(one.locate_file(entry))).resolve()
        if file.is_file() and file.is_relative_to(target.resolve()) and file.suffix not in _LEFT:
            name = file.relative_to(target.resolve()).as_posix()
            top = name.partition("/")[0]
            kept = not top.endswith(".dist-info") or name.endswith(("/METADATA", "/entry_points.txt"))
            if kept and top not in {"bin", "share", "etc", "__pycache__"} and "/__pycache__/" not in name:
                yield name, file


def _install(needs: Sequence[str], target: Path, index: Sequence[str]) -> None:
    """By uv, where there is one, or else by the pip of this interpreter."""
    uv = shutil.which("uv")
    if uv is not None:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--only-binary", ":all:"]
    else:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        command = [*pip, "install", "--quiet", "--no-compile", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--target", str(target), *index, "--", *needs],
            capture_output=True, text=True, check=False, timeout=_WITHIN, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotBundle(f"{', '.join(needs)} could not be resolved within {_WITHIN:.0f} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        words = " ".join(said[-4:]) or "no reason was given"
        raise CannotBundle(f"{', '.join(needs)} cannot be resolved to wheels: {words[:1000]}")
