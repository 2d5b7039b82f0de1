"""The wheel holds what the tree holds: every module, the typing marks, the schema, the demo's repositories; no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("ipc", "sandbox", "engine", "loader")
DATA = {".py", ".sql"}
NOT_SHIPPED = {"__pycache__"}


def tree() -> set[str]:
    """What of the repository belongs into a wheel, under the names that it has there."""
    found = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            inside = file.relative_to(ROOT)
            wanted = file.suffix in DATA or file.name == "py.typed" or "repositories.d" in inside.parts
            if file.is_file() and wanted and not NOT_SHIPPED & set(inside.parts):
                found.add(f"cloister/{inside.as_posix()}")
    stubs = ROOT / "sandbox/stubs"
    for file in stubs.rglob("*.pyi"):
        package, _, rest = file.relative_to(stubs).as_posix().partition("/")
        found.add(f"{package}-stubs/{rest}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel that is built from a copy, so that nothing of an earlier build can be in it."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", ".*_cache", *NOT_SHIPPED)
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-build-isolation", "--no-index", "--wheel-dir", str(place), str(copy)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = place.glob("*.whl")
    return zipfile.ZipFile(built)


def shipped(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith("/")}


def test_the_wheel_holds_what_the_tree_holds(wheel: zipfile.ZipFile) -> None:
    """A package that was forgotten in the list fails here, and not at a user's."""
    assert shipped(wheel) == tree()


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_typed(wheel: zipfile.ZipFile, folder: str) -> None:
    """The mark is in each of them, since what they share is a namespace."""
    assert f"cloister/{folder}/py.typed" in wheel.namelist()
    assert "cloister/__init__.py" not in wheel.namelist()


def test_what_is_not_code_is_there(wheel: zipfile.ZipFile) -> None:
    """The schema, and the repositories of the demo with their own suites."""
    names = wheel.namelist()
    assert "cloister/engine/schema.sql" in names
    repositories = {name.split("/")[4] for name in names if name.startswith("cloister/loader/demo/repositories.d/")}
    assert len(repositories) == 3
    for repository in repositories:
        assert f"cloister/loader/demo/repositories.d/{repository}/ci.py" in names


def test_nothing_else_is_there(wheel: zipfile.ZipFile) -> None:
    """No tests, no benchmarks, no common names at the top that another distribution may have."""
    stubs = {f"{package.name}-stubs" for package in (ROOT / "sandbox/stubs").iterdir()}
    assert {name.partition("/")[0] for name in shipped(wheel)} == {"cloister", *stubs}
    assert not [name for name in shipped(wheel) if name.startswith(("cloister/tests", "cloister/benchmarks"))]


def test_the_metadata_says_what_is_needed(wheel: zipfile.ZipFile) -> None:
    """Name, Python, licence, dependencies and the command."""
    (place,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{place}/METADATA").decode()
    for line in ("Name: cloister", "Requires-Python: >=3.11", "License-Expression: MIT", "Typing :: Typed"):
        assert line in metadata
    needed = {
        line.split(":")[1].strip().split(">")[0] for line in metadata.splitlines() if line.startswith("Requires-D")
    }
    assert {"msgpack", "pyzmq", "psutil", "cachetools", "sqlite-utils"} <= needed
    assert not needed & {"pytest", "hypothesis", "mypy", "ruff"}
    assert "cloister = cloister.loader.cli:main" in wheel.read(f"{place}/entry_points.txt").decode()
