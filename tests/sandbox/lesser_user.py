"""Run by test_levels in a process of its own: become a lesser user, then try sandboxes as that user.

    python lesser_user.py become LEVEL PLACE       (as root) drop to the level, and go on with the next line
    python lesser_user.py try                      print as JSON what the layers are and what came of trying

Levels: "user" is an ordinary user with user namespaces, "bare" one without; "container" is root as in most containers,
with few capabilities, ids that end at 65,535, and no namespaces; "powerless" is root without any capability;
"rootless" is an ordinary user who has become root of a user namespace, and of nothing else.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

# ruff: noqa: ASYNC240 - a test may look into /proc

UID = 54_321
NEWNS, NEWUSER = 0x20000, 0x10000000
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
SECURE_BITS, DUMPABLE, DROP = 28, 4, 24
KEPT_IN_A_CONTAINER = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(level: str, place: Path) -> NoReturn:
    """Make what is needed visible to anybody, drop to the level, and go on as a fresh program."""
    python = Path(os.path.realpath(sys.base_prefix), "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    site = place / "site"
    show(place, python.parent.parent)
    for folder in ("home", "run"):
        (place / folder).mkdir(exist_ok=True)
        (place / folder).chmod(0o777)
    if level in {"user", "bare", "rootless"}:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        check(libc.prctl(DUMPABLE, 1, 0, 0, 0))
    if level == "bare":
        forbid_namespaces(f"{UID} {UID} 1")
    elif level == "rootless":
        check(libc.unshare(NEWUSER))
        map_one_id(f"0 {UID} 1")
    elif level == "container":
        forbid_namespaces("0 0 65536")
        for capability in set(range(41)) - KEPT_IN_A_CONTAINER:
            check(libc.prctl(DROP, capability, 0, 0, 0))
    elif level == "powerless":
        check(libc.prctl(SECURE_BITS, 0b11, 0, 0, 0))
        check(libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))
    environment = {"PYTHONPATH": str(site), "HOME": str(place / "home"), "XDG_RUNTIME_DIR": str(place / "run")}
    os.execve(python, [str(python), "-W", "error", str(place / "script.py"), "try"], environment)


def show(place: Path, interpreter: Path) -> None:
    """Bind the packages to a place that anybody may enter, in a namespace of our own.

    The interpreter stays where it is, also if that is below a folder which only its owner may enter.
    """
    check(libc.unshare(NEWNS))
    check(libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None))
    (place / "script.py").write_text(Path(__file__).read_text())
    for name in ("msgpack", "zmq", "psutil", "cloister.ipc", "cloister.sandbox"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        folder = (origin.parent / "errors.py").resolve().parent if "." in name else origin.parent
        bind(folder, place / "site" / name.replace(".", "/"))
        if (libraries := origin.parent.parent / f"py{name}.libs").exists():
            bind(libraries, place / "site" / libraries.name)
    closed = [folder for folder in interpreter.parents if not folder.stat().st_mode & 1]
    if closed:
        bind(interpreter, place / "interpreter")
        check(libc.mount(b"none", str(closed[-1]).encode(), b"tmpfs", 0, b"mode=0755"))
        bind(place / "interpreter", interpreter)


def bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    check(libc.mount(str(source).encode(), str(target).encode(), None, BIND | RECURSIVE, None))


def map_one_id(ids: str) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(ids)
    Path("/proc/self/gid_map").write_text(ids)


def forbid_namespaces(ids: str) -> None:
    """Enter a user namespace with these ids in which no other can be made."""
    ours, theirs = os.pipe(), os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if not helper:  # outside, where more than one id may be mapped
        os.read(ours[0], 1)
        if ids.count(" 1") == 0 or not ids.endswith(" 1"):
            for file in ("uid_map", "gid_map"):
                Path(f"/proc/{parent}/{file}").write_text(ids)
        os.write(theirs[1], b"x")
        os._exit(0)
    check(libc.unshare(NEWUSER))
    os.write(ours[1], b"x")
    os.read(theirs[0], 1)
    os.waitpid(helper, 0)
    if ids.endswith(" 1"):
        map_one_id(ids)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


PROGRAM = """
import ctypes, os, posix, socket, threading
from workers import WorkerEntrypoint

def attempt(what):
    try:
        return repr(what())
    except OSError as error:
        return type(error).__name__

def look(path):
    c, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(256)
    number = {"x86_64": 262, "aarch64": 79}[MACHINE]
    return [c.syscall(number, -100, path, buffer, flags) for flags in (0, 0x1000, 0x100)]

class Default(WorkerEntrypoint):
    def try_everything(self):
        return {
            "open": attempt(lambda: open("/etc/passwd")), "stat": attempt(lambda: posix.stat("/etc/passwd")),
            "look": look(b"/etc/passwd"), "list": attempt(lambda: posix.listdir("/")), "fork": attempt(os.fork),
            "socket": attempt(socket.socket), "exec": attempt(lambda: os.execv("/bin/sh", ["sh"])),
            "kill": attempt(lambda: os.kill(os.getppid() or 1, 0)), "kill_all": attempt(lambda: os.kill(-1, 9)),
        }
    def pid(self): return os.getpid()
    def thread(self):
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
    def leave(self): os._exit(3)
    def crash(self): ctypes.string_at(0)
    def trace(self): ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    def spin(self):
        while True: pass
    def fill(self): return len(bytearray(1 << 30))
    def multiply(self):
        threads = [threading.Thread(target=threading.Event().wait, args=(20,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        threading.Event().wait()
    def multiply_unseen(self):
        def multiply():
            threading.Event().wait(0.5)  # until nobody looks any longer
            threading.stack_size(32768)
            for _ in range(2000):
                threading.Thread(target=threading.Event().wait, args=(20,)).start()
        threading.Thread(target=multiply).start()
    def scatter(self):
        memory = ctypes.CDLL(None)
        memory.mmap.restype = ctypes.c_void_p
        for place in range(1 << 33, 1 << 46, 1 << 21):
            page = memory.mmap(ctypes.c_void_p(place), ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
            if page in (None, (1 << 64) - 1):
                break
            ctypes.memset(page, 1, 1)
        threading.Event().wait()
"""


def really_rises(sandbox: Any) -> bool:
    """Whether it goes first again after it had to let others go first."""
    from cloister.sandbox.lockdown.shares import Rank

    before = os.getpriority(os.PRIO_PROCESS, sandbox.pid)
    sandbox._process.rank(Rank.BEHIND)
    behind = os.getpriority(os.PRIO_PROCESS, sandbox.pid)
    sandbox._process.rank(Rank.FIRST)
    assert before < behind
    return os.getpriority(os.PRIO_PROCESS, sandbox.pid) == before


async def attempt_all() -> dict[str, Any]:
    """What there is of layers, and what comes of trying."""
    from cloister.ipc import RemoteError
    from cloister.sandbox import LayerMissing, Limits, Policy, Sandbox, SandboxError, Spawner
    from cloister.sandbox.lockdown.levels import level

    report: dict[str, Any] = {"uid": os.getuid(), "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}

    async def boot() -> Sandbox:
        sandbox = await spawner.take()
        source = PROGRAM.replace("MACHINE", repr(os.uname().machine))
        await sandbox.boot("main.py", {"main.py": ("py", source)}, {}, Limits())
        return sandbox

    async def call(method: str, sandbox: Sandbox) -> Any:
        cpu_ms = 100 if method == "spin" else 30_000
        payload = await sandbox.call("invoke", [None, method, [], {}, None], Limits(cpu_ms=cpu_ms, wall_ms=None))
        return sandbox.decode(payload)

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    async with Spawner(spares=2) as spawner:
        report["layers"], report["level"] = spawner.layers, level(spawner.layers)
        sandbox = await boot()
        lines: list[str] = []
        sandbox.tail.listener = lambda line: lines.append(line.text)
        report["tried"] = await call("try_everything", sandbox)
        report["pid"] = [await call("pid", sandbox), sandbox.pid]
        await call("thread", sandbox)
        report["lines"] = lines
        status = Path(f"/proc/{sandbox.pid}/status").read_text().splitlines()
        wanted = ("NoNewPrivs", "Seccomp", "Cap")
        report["status"] = dict(line.split(":\t", 1) for line in status if line.startswith(wanted))
        report["can_rise"] = [sandbox._process.may_rise(), really_rises(sandbox)]
        report["ends"] = {}
        for method in ("leave", "crash", "trace", "spin", "fill", "multiply", "scatter"):
            try:
                await call(method, await boot())
            except (SandboxError, RemoteError) as error:
                report["ends"][method] = str(error)
        zygote = spawner.zygote_pid
        assert zygote is not None
        os.kill(zygote, 9)
        await sandbox.died
        report["after_the_zygote"] = await call("pid", await boot()) > 0
    grouped = report["layers"]["cgroups"] == "active"
    report["unseen"] = "refused by the kernel" if grouped else await multiply_unseen()
    try:
        async with Spawner(policy=Policy(isolation="strict")):
            report["strict"] = "accepted"
    except LayerMissing as error:
        report["strict"] = str(error)
    report["left"] = {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())) - descriptors,
        "sockets": len(list(Path(os.environ["XDG_RUNTIME_DIR"]).iterdir())),
    }
    return report


async def multiply_unseen() -> str:
    """What becomes of one that has many threads when it has answered, and is not due to be looked at for an hour."""
    from cloister.sandbox import Limits, Spawner, spawner

    spawner.TEND_EVERY = 3600  # type: ignore[misc]
    async with Spawner(spares=0) as source:
        sandbox = await source.take()
        await sandbox.boot("main.py", {"main.py": ("py", PROGRAM)}, {}, Limits())
        await sandbox.call("invoke", [None, "multiply_unseen", [], {}, None])
        await asyncio.wait({sandbox.died}, timeout=60)
        return await sandbox.died if sandbox.died.done() else "nothing"


if __name__ == "__main__":
    if sys.argv[1] == "become":
        become(sys.argv[2], Path(sys.argv[3]))
    print(json.dumps(asyncio.run(attempt_all())))
