"""The same sandboxes for lesser users: an ordinary one, one without namespaces, root as containers have it, and root of
a user namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.lockdown.sequence import FLOOR

SCRIPT = Path(__file__).parent / "lesser_user.py"
LEVELS = {"user": 54_321, "bare": 54_321, "container": 0, "powerless": 0, "rootless": 0}
NAMED = {"user", "rootless"}
"""Those that may make namespaces."""
NAMESPACES = {"processes", "mount", "net", "ipc", "uts", "cgroup"}
CAPABILITIES = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
MAY_MOUNT = 1 << 21

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not CAPABILITIES & MAY_MOUNT,
    reason="only root can become a lesser user; the other tests have run as the one that there is",
)


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """What each level reports. They run at the same time, each in a folder that anybody may enter."""
    places = {level: Path(tempfile.mkdtemp(prefix="lesser-")) for level in LEVELS}
    running = {}
    for level, place in places.items():
        place.chmod(0o755)
        command = [sys.executable, "-W", "error", str(SCRIPT), "become", level, str(place)]
        running[level] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = {level: process.communicate(timeout=280) for level, process in running.items()}
    for place in places.values():
        shutil.rmtree(place)  # what was bound into it was bound in another namespace
    found = {}
    for level, (out, errors) in said.items():
        assert (running[level].returncode, errors) == (0, ""), level
        found[level] = json.loads(out)
    return found


@pytest.fixture(params=list(LEVELS))
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(reports: dict[str, dict[str, Any]], level: str) -> dict[str, Any]:
    assert reports[level]["uid"] == LEVELS[level]
    return reports[level]


def test_the_floor_is_there(report: dict[str, Any]) -> None:
    """Filter, Landlock, limits and no way to new privileges need no rights at all."""
    for layer in FLOOR:
        assert report["layers"][layer] == "active"
    assert (report["status"]["NoNewPrivs"], report["status"]["Seccomp"]) == ("1", "2")
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(report["status"][kind], 16) == 0


def test_what_is_missing_says_why(report: dict[str, Any], level: str) -> None:
    """An ordinary user lacks ids and groups; the others lack namespaces too, and hear what switches them on."""
    layers = report["layers"]
    if level == "user":
        if "not available" in layers["user"]:
            pytest.skip(f"user namespaces: {layers['user']}")
        assert {layers[name] for name in NAMESPACES | {"user", "pids", "root", "capabilities"}} == {"active"}
    elif level == "rootless":
        assert {layers[name] for name in NAMESPACES | {"pids", "root", "capabilities"}} == {"active"}
        assert layers["user"] == "root needs none"
    else:
        assert layers["user"].startswith("not available: ")
        assert "user namespaces are" in layers["user"]
        assert all(layers[name].startswith("not available: ") for name in NAMESPACES)
        assert (layers["pids"], layers["root"]) == ("needs the user namespace", "needs the mount namespace")
    assert layers["identity"] != "active"
    if level != "container":
        assert "run as root, or delegate one" in layers["cgroups"]


def test_strict_isolation_is_refused_and_names_all_that_is_missing(report: dict[str, Any]) -> None:
    """Silence about it would be the worst answer. What has one remedy is named together, and each with its reason."""
    first, *lines = report["strict"].splitlines()
    assert first == "isolation='strict' is asked for, and this machine does not give:"
    assert all(line.startswith("- ") and line.count(". What gets it: ") == 1 for line in lines)
    named = " ".join(line.partition(". What gets it: ")[0] for line in lines)
    for layer, state in report["layers"].items():
        missing = state not in {"active", "root needs none", "there are none to drop"}
        assert (f" {layer} ({state.removeprefix('not available: ')})" in named) is missing


def test_what_is_missing_can_be_got(report: dict[str, Any], level: str) -> None:
    """The remedies are commands, options and settings, not advice."""
    assert "Delegate=memory pids" in report["strict"] or report["layers"]["cgroups"] == "active"
    assert "CAP_SETUID" in report["strict"]
    if level not in NAMED:
        assert "sysctl -w user.max_user_namespaces" in report["strict"]
        assert "--cap-add SYS_ADMIN" in report["strict"]


def test_the_level_is_told(report: dict[str, Any], level: str) -> None:
    """An ordinary user has all but what only root gives; without namespaces there is no second wall."""
    if level == "user" and report["layers"]["user"] != "active":
        pytest.skip(f"user namespaces: {report['layers']['user']}")
    assert report["level"] == ("b" if level in NAMED else "c")


def test_nothing_of_the_host_can_be_reached(report: dict[str, Any]) -> None:
    """Files, also by calls that are meant for descriptors; sockets, programs, processes, signals."""
    tried = dict(report["tried"])
    assert tried.pop("look") == [-1, -1, -1]
    assert set(tried.values()) == {"PermissionError"}, tried


def test_it_works_there(report: dict[str, Any], level: str) -> None:
    """Code runs, prints, starts threads; a zygote that dies is replaced."""
    assert report["lines"] == ["from a thread"]
    assert report["after_the_zygote"] is True
    own, from_outside = report["pid"]
    assert own == (1 if level in NAMED else from_outside)


def test_deaths_and_limits_have_the_same_words(report: dict[str, Any]) -> None:
    """Whoever the host is."""
    grouped = report["layers"]["cgroups"] == "active"
    assert report["ends"] == {
        "leave": "the sandbox exited with 3",
        "crash": "the sandbox was killed by SIGSEGV",
        "trace": "the sandbox was killed by SIGSYS: it made a system call that nothing needs",
        "spin": "the sandbox exceeded 100 ms of CPU",
        "fill": "MemoryError",
        "multiply": "RuntimeError: can't start new thread" if grouped else "the sandbox exceeded 32 threads",
        "scatter": f"the sandbox exceeded {'128 MiB of memory' if grouped else '20 MiB of page tables'}",
    }


def test_threads_are_bounded_while_nobody_looks(report: dict[str, Any]) -> None:
    """Else one that has answered could in a second have as many as the machine may have, and nobody could fork."""
    grouped = report["layers"]["cgroups"] == "active"
    assert report["unseen"] == ("refused by the kernel" if grouped else "exceeded 32 threads")


def test_it_is_known_that_giving_way_is_for_good(report: dict[str, Any]) -> None:
    """Root of a container may not let a process go first again: it is held back only after a longer look."""
    claimed, really = report["can_rise"]
    assert (claimed, really) == (False, False)


def test_nothing_is_left(report: dict[str, Any]) -> None:
    """No descriptor, no socket."""
    assert report["left"] == {"descriptors": 0, "sockets": 0}
