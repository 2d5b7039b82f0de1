"""`cloister doctor`: what a machine gives, told to people and to programs, also where it gives less."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from cloister.loader import doctor
from cloister.sandbox.lockdown.levels import LEVELS, REMEDIES
from cloister.sandbox.lockdown.sequence import LAYERS
from cloister.sandbox.lockdown.syscalls import NUMBERS as NUMBERS_HERE

COMMAND = [sys.executable, "-W", "error", "-c", "from cloister.loader.cli import main; main()", "doctor"]


REFUSING = """
import ctypes, struct, sys
code = struct.pack("<HBBI", 0x20, 0, 0, 0)
for each in sys.argv.pop(1).split(","):
    number, answer = map(int, each.split("="))
    code += struct.pack("<HBBIHBBI", 0x15, 0, 1, number, 0x06, 0, 0, 0x50000 | answer)
code = ctypes.create_string_buffer(code + struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))
program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
assert libc.prctl(22, ctypes.c_ulong(2), program, ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
from cloister.loader.cli import main
main()
"""
"""A system, or a container, that answers some calls with an error."""
NUMBERS = NUMBERS_HERE[platform.machine()] | {
    "pidfd_send_signal": 424, "pidfd_open": 434, "close_range": 436, "landlock_create_ruleset": 444,
}  # fmt: skip


def examined_where(refused: dict[str, int]) -> dict[str, Any]:
    """What it says where these calls are answered so."""
    answers = ",".join(f"{NUMBERS[name]}={answer}" for name, answer in refused.items())
    command = [sys.executable, "-W", "error", "-c", REFUSING, answers, "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.stderr == ""
    told: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (0 if told["runs"] else 1)
    return told


@pytest.mark.parametrize("refused", ["unshare", "mount", "pivot_root"])
def test_a_container_that_gives_no_namespaces(refused: str) -> None:
    """Tenants run there, at a lower level, and the calls that its profile has to let through are named."""
    told = examined_where({refused: errno.EPERM})
    assert (told["runs"], told["strict"]) == (True, False)
    assert told["level"] == "c"
    root = next(layer for layer in told["layers"] if layer["name"] == "root")
    assert not root["available"]
    assert refused in root["remedy"]


def test_a_container_in_which_there_is_no_way_back_from_a_namespace() -> None:
    """Found out by a process that can do without it; the sandboxes share the host's process numbers."""
    told = examined_where({"setns": errno.EPERM})
    assert (told["runs"], told["strict"], told["level"]) == (True, False, "c")
    [processes] = [layer for layer in told["layers"] if layer["name"] == "processes"]
    assert (processes["available"], processes["state"]) == (False, "not available: Operation not permitted")
    assert "setns" in processes["remedy"]


@pytest.mark.parametrize(
    ("refused", "answer", "layer", "why"),
    [
        (
            "landlock_create_ruleset",
            errno.ENOSYS,
            "landlock",
            "this kernel has no Landlock, or the container's profile",
        ),
        ("landlock_create_ruleset", errno.EOPNOTSUPP, "landlock", "switched off when it starts"),
        ("landlock_create_ruleset", errno.EPERM, "landlock", "the container's profile refuses it"),
        ("close_range", errno.ENOSYS, "descriptors", "Function not implemented"),
    ],
)
def test_a_system_that_is_too_old_for_a_layer_that_must_be_there(
    refused: str, answer: int, layer: str, why: str
) -> None:
    """Nothing runs there, and it says which layer it is, why it is not there, and what gets it."""
    told = examined_where({refused: answer})
    assert (told["runs"], told["level"]) == (False, "")
    found = next(each for each in told["layers"] if each["name"] == layer)
    assert why in found["state"]
    assert refused in found["remedy"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere the zygote itself is started by the same call")
@pytest.mark.parametrize("answer", [errno.EAGAIN, errno.ENOMEM])
def test_a_system_that_has_no_room_for_processes(answer: int) -> None:
    """Nothing runs there now, which is no lower level of confinement, and the limits to raise are named."""
    told = examined_where({"clone": answer})
    assert (told["runs"], told["level"]) == (False, "")
    assert "ulimit -u" in told["why_not"]
    assert os.strerror(answer) in told["why_not"]


@pytest.mark.parametrize("refused", ["pidfd_open", "pidfd_send_signal"])
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_a_system_without_descriptors_of_processes(refused: str, answer: int) -> None:
    """Nothing runs there, since nothing could be ended for certain; it says so, and what it takes."""
    told = examined_where({refused: answer})
    assert not told["runs"]
    assert "kernel of 5.3 or newer" in told["why_not"]
    assert refused in told["why_not"]


@pytest.fixture(scope="module")
def found() -> Any:
    """What it says as JSON, of this machine."""
    result = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, timeout=280, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def shown(found: dict[str, Any]) -> str:
    """What is printed of it."""
    text = StringIO()
    doctor.show(found, Console(file=text))
    return text.getvalue()


def lacking(found: dict[str, Any], names: set[str], state: str) -> dict[str, Any]:
    """The same where some layers are not there."""
    remedies = {layer.name: REMEDIES[layer.name] for layer in LAYERS}
    layers = [
        layer | {"available": False, "active": False, "state": state, "remedy": remedies[layer["name"]]}
        if layer["name"] in names
        else layer
        for layer in found["layers"]
    ]
    return found | {"layers": layers}


def test_it_says_what_there_is(found: dict[str, Any]) -> None:
    """The machine, the level in words, and each layer of the table in its order."""
    assert (found["runs"], found["why_not"]) == (True, "")
    assert (found["kernel"], found["machine"]) == (platform.release(), platform.machine())
    assert (found["python"], found["user"]) == (platform.python_version(), os.geteuid())
    assert found["landlock_abi"] >= 1
    assert found["level_in_words"] == LEVELS[found["level"]]
    assert found["strict"] is (found["level"] == "a")
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in LAYERS]
    assert [layer["stops"] for layer in found["layers"]] == [layer.stops for layer in LAYERS]
    for layer in found["layers"]:
        assert layer["available"] or not layer["active"]
        assert (layer["remedy"] != "") is not layer["available"]


def test_costs_are_microseconds(found: dict[str, Any]) -> None:
    """Of what is in force, the zygote's part and the child's; and what a start takes as a whole."""
    costs = {layer["name"]: (layer["once_us"], layer["each_us"]) for layer in found["layers"] if layer["active"]}
    assert costs["seccomp"][0] > 0
    assert costs["seccomp"][1] > 0
    assert costs["no_new_privs"][1] == 0
    assert all(once + each > 0 for once, each in costs.values())
    assert set(found["boot_us"]) == {"fork", "confine", "ready"}
    assert min(found["boot_us"].values()) > 0


def test_it_is_printed_as_a_table(found: dict[str, Any]) -> None:
    """One line for each layer, also where the output is a file, and what follows from it."""
    result = subprocess.run(COMMAND, capture_output=True, text=True, timeout=280, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"Linux {found['kernel']} on {found['machine']}, Python {found['python']}, user")
    assert f"Landlock ABI {found['landlock_abi']}" in lines[0]
    for layer in found["layers"]:
        [line] = [line for line in lines if line.split()[:1] == [layer["name"]]]
        assert layer["stops"] in line
        assert line.split()[1] == ("yes" if layer["available"] else "no")
    assert any(line.startswith(f"Level {found['level']} - ") for line in lines)
    strict = "with Policy(isolation='strict') too" if found["strict"] else "but not with Policy(isolation='strict')"
    assert lines[-1] == f"Tenants can be run here, {strict}."


def test_what_is_missing_is_shown_with_its_remedy(found: dict[str, Any]) -> None:
    """What one thing gets is told of together, each with its reason."""
    less = lacking(found, {"net", "ipc", "identity"}, "not available: [so] it is")
    text = shown(less | {"strict": False, "level": "c", "level_in_words": LEVELS["c"]})
    flat = re.sub(r"\s+", " ", text)
    assert "Missing: net: not available: [so] it is ipc: not available: [so] it is What gets it: run as root" in flat
    assert "Missing: identity: not available: [so] it is What gets it: run as root with CAP_SETUID" in flat
    assert "Until then: sandboxes have the host's process numbers, and the filter and Landlock alone keep them" in flat
    assert "Until then: sandboxes are processes of the host's own user" in flat
    assert "Level c - Landlock, a stricter filter" in flat
    assert text.splitlines()[-1] == "Tenants can be run here, but not with Policy(isolation='strict')."


def test_where_nothing_runs_it_says_so(found: dict[str, Any]) -> None:
    """And why, in the last line."""
    less = lacking(found, {"seccomp"}, "not available: nothing is known of 'riscv64'")
    text = shown(less | {"runs": False, "why_not": "because", "level": "", "level_in_words": LEVELS[""], "boot_us": {}})
    assert "No level - less than Landlock, filter and limits: nothing untrusted runs here." in text
    assert text.splitlines()[-1] == "Tenants cannot be run here: because."


def under_a_profile(refused: dict[int, int]) -> tuple[int, dict[str, Any]]:
    """The exit code, and what is found, where a container's profile answers some calls with an error."""
    program = f"""
import ctypes, struct, sys
code = struct.pack("<HBBI", 0x20, 0, 0, 0)
for number, error in {refused!r}.items():
    code += struct.pack("<HBBIHBBI", 0x15, 0, 1, number, 0x06, 0, 0, 0x50000 | error)
code += struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(code, len(code))
header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0) == 0
sys.argv[1:] = ["doctor", "--json"]
from cloister.loader.cli import main
main()
"""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (errno.ENOSYS, "this kernel has no Landlock, or the container's profile hides it"),
        (errno.EOPNOTSUPP, "Landlock is built into this kernel, but switched off when it starts"),
        (errno.EPERM, "the container's profile refuses it"),
    ],
)
def test_below_the_floor_nothing_runs_and_the_exit_code_says_so(error: int, why: str) -> None:
    """An old kernel, one that was started without Landlock, and an old container's profile: found out at the start."""
    code, found = under_a_profile({444: error})
    assert (code, found["runs"], found["level"], found["boot_us"], found["landlock_abi"]) == (1, False, "", {}, None)
    [layer] = [layer for layer in found["layers"] if layer["name"] == "landlock"]
    assert (layer["available"], layer["active"], layer["state"]) == (False, False, f"not available: {why}")
    assert "CONFIG_SECURITY_LANDLOCK=y" in layer["remedy"]
    assert "Tenants cannot be run here: a layer is missing that nothing can do without." in shown(found)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86-64")
def test_a_default_profile_leaves_a_lower_level() -> None:
    """A container in which no namespace can be made: the filter is stricter, and the remedies are the container's."""
    code, found = under_a_profile({272: errno.EPERM, 308: errno.EPERM, 165: errno.EPERM, 155: errno.EPERM})
    assert (code, found["runs"], found["strict"], found["level"]) == (0, True, False, "c")
    layers = {layer["name"]: layer for layer in found["layers"]}
    for name in ("processes", "mount", "net", "ipc", "uts", "cgroup"):
        assert layers[name]["state"].startswith("not available: "), name
        assert "--cap-add SYS_ADMIN" in layers[name]["remedy"]
    assert layers["root"]["state"] == "needs the mount namespace"
    assert {name for name, layer in layers.items() if layer["active"]} >= {"landlock", "seccomp", "limits", "parent"}
