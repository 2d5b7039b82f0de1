"""`cloister bundle` and `cloister check`: what a tenant's author runs before the host does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from ..bundle.check import check
from ..code import WorkerCode
from ..errors import InvalidCode
from ..quoting import quoted

_PRELOAD: Final = "modules that the host's runtime profile has, with commas between"


def arguments(commands: Any) -> None:
    """What may be asked."""
    bundle = commands.add_parser("bundle", help="make one file of a program and the packages that it needs")
    bundle.add_argument("path", type=Path, help="a folder, or a wheel")
    bundle.add_argument("-o", "--output", type=Path, help="where to write it; without it, it is only looked at")
    bundle.add_argument("--main", help="the main module, if it cannot be told from the folder")
    bundle.add_argument("--preload", default="", help=_PRELOAD)
    bundle.add_argument("--no-resolve", action="store_true", help="take the files as they are, and no packages")
    bundle.add_argument("--index-url", help="where packages are looked up")
    looked = commands.add_parser("check", help="say what of a program would not run")
    looked.add_argument("path", type=Path, help="a file, or a folder")
    looked.add_argument("--preload", default="", help=_PRELOAD)


def run(given: argparse.Namespace) -> int:
    """Do it; the exit code."""
    preload = tuple(name.strip() for name in given.preload.split(",") if name.strip())
    if given.command == "check":
        return _check(given.path, preload)
    try:
        code = _bundled(given, preload)
        stored = code.stored()
        if given.output is not None:
            given.output.write_bytes(stored)
    except (InvalidCode, OSError) as error:
        for reason in getattr(error, "reasons", (str(error),)):
            print(f"cloister bundle: {quoted(reason)}", file=sys.stderr)
        return 1
    modules = "1 module" if len(code.modules) == 1 else f"{len(code.modules):,} modules"
    print(f"{code.main_module}: {modules}, {len(stored):,} bytes, digest {code.digest.hex()[:16]}")
    return 0


def _bundled(given: argparse.Namespace, preload: tuple[str, ...]) -> WorkerCode:
    options: dict[str, Any] = {"preload": preload}
    if given.index_url:
        options["index"] = ("--index-url", given.index_url)
    if given.path.suffix == ".whl":
        return WorkerCode.from_wheel(given.path, main=given.main or "main", **options)
    return WorkerCode.from_folder(given.path, main=given.main, resolve=not given.no_resolve, **options)


def _check(path: Path, preload: tuple[str, ...]) -> int:
    try:
        findings = check(path, preload)
    except (InvalidCode, OSError) as error:
        print(f"cloister check: {quoted(error)}", file=sys.stderr)
        return 2
    for finding in findings:
        print(quoted(finding))
    wrong = sum(finding.level == "error" for finding in findings)
    print(f"{wrong} of it would not run" if wrong else "nothing was found that would not run")
    return 1 if wrong else 0
