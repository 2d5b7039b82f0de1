"""A disk that is really full: a small file system, and a file that may not grow. Told in a process of its own, which
may do that to itself.

Nothing is acknowledged that is not stored; what is there can be looked at; and once there is room everything goes on by
itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, StorageError, WorkflowEntrypoint
from cloister.engine.testing import VirtualClock

MIB = 1024 * 1024
NO_MOUNTS = 77
NEW_USER, NEW_MOUNTS, PRIVATE = 0x10000000, 0x00020000, 1 << 18 | 1 << 14


class Steps(WorkflowEntrypoint):
    """As many steps as the params say, each with a result of 50 kB."""

    async def run(self, event: Any, step: Any) -> int:
        for number in range(event.payload):
            await step.do(f"s{number}", lambda: "x" * 50_000)
        return int(event.payload)


def small_file_system(folder: Path) -> Callable[[], None]:
    """Of which two MiB are free; what gives back the others."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(NEW_MOUNTS if user == 0 else NEW_MOUNTS | NEW_USER):
        sys.exit(NO_MOUNTS)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    assert libc.mount(b"none", b"/", None, PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=24m") == 0, os.strerror(ctypes.get_errno())
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(22 * MIB))
    return ballast.unlink


def small_files(folder: Path) -> Callable[[], None]:
    """No file grows beyond a MiB and a half; what lets them."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB // 2, most))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


async def tell(path: Path, make_room: Callable[[], None]) -> dict[str, Any]:
    """Until it is full, while it is, and afterwards: what came of it."""
    clock = VirtualClock()
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Steps)
        early = await workflow.create(id="early", params=1)
        assert await early.result() == 1
        running = await workflow.create(id="running", params=100)
        await clock.run_until_idle()
        status = await running.status()
        acknowledged, refused = {"early", "running"}, []
        for number in range(10):
            try:
                acknowledged.add((await workflow.create(id=f"i{number}", params="x" * 200_000)).id)
            except StorageError as error:
                refused.append(str(error))
        listed = {summary.id for summary in (await workflow.list()).instances}
        looked_at = (await early.status())["output"]
        make_room()
        for _ in range(100):
            await clock.advance(5)
        return {
            "status": status["status"],
            "trouble": status["trouble"],
            "refused": refused,
            "exactly what was acknowledged": listed == acknowledged,
            "looked at": looked_at,
            "at last": await running.result(),
            "created at last": await (await workflow.create(id="late", params=2)).result(),
        }


async def tell_of_the_log(path: Path, make_room: Callable[[], None]) -> dict[str, Any]:
    """How many instances of a few bytes there was no room for, of many."""
    refused = 0
    async with Engine(path, clock=VirtualClock()) as engine:
        workflow = engine.workflow("w", Steps)
        for number in range(200):
            try:
                await workflow.create(id=f"i{number}", params=0)
            except StorageError:
                refused += 1
    return {"refused": refused}


def told_by_a_process(told: Callable[..., Any], what: Callable[..., Any], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, told.__name__, what.__name__, folder],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    if done.returncode == NO_MOUNTS:
        pytest.skip("this machine gives no mounts of one's own")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("what", [small_file_system, small_files])
def test_a_log_that_has_no_room_makes_some(tmp_path: Path, what: Callable[[Path], Callable[[], None]]) -> None:
    """What it says fits into the database, so that it can begin anew: it is not the log that keeps a disk full."""
    told = told_by_a_process(tell_of_the_log, what, tmp_path)
    assert told["refused"] < 10


@pytest.mark.parametrize("what", [small_file_system, small_files])
def test_a_disk_that_is_full_is_borne_and_got_over(tmp_path: Path, what: Callable[[Path], Callable[[], None]]) -> None:
    """By the same engine, without being told that there is room again."""
    told = told_by_a_process(tell, what, tmp_path)
    assert told["status"] in {"queued", "running", "waiting"}, "it has not ended for that"
    assert "could not be stored" in told["trouble"]
    assert len(told["refused"]) > 5
    assert told["exactly what was acknowledged"]
    assert told["looked at"] == 1
    assert (told["at last"], told["created at last"]) == (100, 2)


if __name__ == "__main__":
    story = {"tell": tell, "tell_of_the_log": tell_of_the_log}[sys.argv[1]]
    room = {"small_file_system": small_file_system, "small_files": small_files}[sys.argv[2]](Path(sys.argv[3]))
    print(json.dumps(asyncio.run(story(Path(sys.argv[3], "app.db"), room))))
