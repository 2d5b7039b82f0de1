"""Runs the catalogue of attacks once for each mode that this machine offers, all at the same time."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUNNER = Path(__file__).parent / "runner.py"
LESSER = ("user", "bare", "container")
"""An ordinary user, one without namespaces, and root as in most containers: whom root can become."""
CAPABILITIES = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
MAY_MOUNT, MAY_RAISE_LIMITS = 1 << 21, 1 << 24
MODES = ("own", *(LESSER if os.geteuid() == 0 and CAPABILITIES & MAY_MOUNT else ()))


REAL_TIME = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
PATIENCE = 600
"""Seconds that a mode may take for all attacks: some are to last for seconds, and the machine may be busy."""


@functools.cache
def runner() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("hostile_runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def themes() -> dict[str, dict[str, Any]]:
    """The attacks, by theme and name."""
    return dict(runner().load_catalogue()[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test is the first waits for the reports of all."""
    for item in items:
        if "told" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(2 * PATIENCE))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of an attack is one for each, and one of a mode likewise."""
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES)
    if "entry" in metafunc.fixturenames:
        entries = [entry for theme in themes().values() for entry in theme.values()]
        metafunc.parametrize("entry", entries, ids=[f"{entry.theme}/{entry.name}" for entry in entries])


@pytest.fixture(scope="session")
def catalogue() -> dict[str, dict[str, Any]]:
    """The attacks, by theme and name."""
    return themes()


@pytest.fixture(scope="session")
def told() -> dict[str, dict[str, Any]]:
    """What each mode reports, and under "proof" what came of the attacks where nothing stopped them."""
    places = {mode: Path(tempfile.mkdtemp(prefix="lesser-")) for mode in MODES[1:]}
    commands = {"own": ["try"], **{mode: ["become", mode, str(place)] for mode, place in places.items()}}
    commands["proof"] = ["prove"]
    running = {}
    for mode, command in commands.items():
        if mode in places:
            places[mode].chmod(0o755)
        running[mode] = subprocess.Popen(
            [sys.executable, "-W", "error", str(RUNNER), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    reports = {}
    try:
        for mode, process in running.items():
            out, errors = process.communicate(timeout=PATIENCE)
            assert (process.returncode, errors.decode()) == (0, ""), mode
            reports[mode] = json.loads(out)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
        for place in places.values():
            shutil.rmtree(place)  # what was bound into it was bound in another namespace
    return reports


@pytest.fixture(scope="session")
def provable() -> dict[str, bool]:
    """Which kinds of proof can be had here."""
    root = "own" in MODES and len(MODES) > 1
    realtime = subprocess.run([sys.executable, "-I", "-c", REAL_TIME], stderr=subprocess.DEVNULL, check=False)
    return {
        "anybody": True,
        "root": root,
        "resource": bool(CAPABILITIES & MAY_RAISE_LIMITS),
        "realtime": root and realtime.returncode == 0,
        "itself": False,
    }
