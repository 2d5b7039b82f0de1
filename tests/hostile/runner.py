"""Runs the catalogue in a process of its own, and prints as JSON what came of each attack.

python runner.py become LEVEL PLACE   (as root) become a lesser user in a place, and go on there with the next line
python runner.py try                  each attack in a sandbox of its own, made by the user that there is
python runner.py prove                each attack in a plain child, in namespaces of their own where root makes them
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, Self

HERE = Path(__file__).resolve().parent
ATTACKS = HERE / "attacks"
MARKER = "bait"
LESSER = HERE.parent / "sandbox" / "lesser_user.py"
PROGRAM = """
import asyncio, importlib, sys, zlib
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def attack(self, theme, name, bait):
        import attacks
        module = importlib.import_module(f"attacks.{theme}")
        function = attacks.catalogue(module)[name].function
        if theme == "tricks" and name.startswith(("return_", "raise_")):  # as the guest tells it
            return function(attacks.Bait(**bait))
        return await attacks.told(function, attacks.Bait(**bait))

    def answer(self, module):
        importlib.import_module(module)
        return 42
"""
AT_ONCE = 4
LONGEST = 500
"""Seconds after which what should have been ended from outside long ago is given up, and told as what it is."""
MODULES = (
    "cmd code filecmp mailbox netrc plistlib poplib pstats pyclbr quopri sched shelve smtplib stringprep tabnanny "
    "timeit trace wave zipapp".split()
)
"""What a neighbour has not imported yet: one for each attack on what all import from."""


def load(path: Path, name: str, **options: Any) -> ModuleType:
    """A module from a file, by a name of our own."""
    spec = importlib.util.spec_from_file_location(name, path, **options)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_catalogue(folder: Path = ATTACKS) -> tuple[ModuleType, dict[str, dict[str, Any]]]:
    """The package of attacks, and the attacks by theme and name."""
    package = load(folder / "__init__.py", "attacks", submodule_search_locations=[str(folder)])
    themes = {name: package.catalogue(importlib.import_module(f"attacks.{name}")) for name in package.THEMES}
    return package, themes


def start_victim() -> subprocess.Popen[bytes]:
    """A process that does nothing, and ends with this one."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Trap:
    """What attacks go for, and whether one of them has got at it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bait-"))
        self.folder.chmod(0o755)
        self.secret = f"{MARKER}-{os.urandom(8).hex()}"
        self.files = {"secret.txt": self.secret, "planted.py": "", "program": "#!/bin/sh\necho done: it runs\n"}
        for name, text in self.files.items():
            (self.folder / name).write_text(text)
        (self.folder / "program").chmod(0o755)
        os.environ["SECRET_OF_THE_HOST"] = self.secret
        self.servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
        self.servers.append(socket.socket(socket.AF_UNIX))
        self.servers[1].bind(str(self.folder / "socket"))
        self.abstract = f"cloister-bait-{os.getpid()}-{os.urandom(4).hex()}"
        self.servers[2].bind(f"\0{self.abstract}")
        for server in self.servers:
            server.listen(64)
            server.setblocking(False)
        self.victim = start_victim()
        self.state = self._state()

    def bait(self, *, sibling: int) -> dict[str, Any]:
        """What an attack is told."""
        known = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), str(HERE.parent.parent)}
        return {
            "folder": str(self.folder),
            "file": str(self.folder / "secret.txt"),
            "program": str(self.folder / "program"),
            "port": self.servers[0].getsockname()[1],
            "unix": str(self.folder / "socket"),
            "abstract": self.abstract,
            "host": os.getpid(),
            "victim": self.victim.pid,
            "sibling": sibling,
            "paths": sorted(known - {"/", "/usr"}),
            "marker": MARKER,
        }

    def harm(self) -> list[str]:
        """What has changed since the last time, in words. Put right, where it was something in the folder."""
        found = []
        for server in self.servers:
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                found.append("somebody has connected")
        state = self._state()
        found += [
            f"{name} was {self.state[name]!r} and is {state[name]!r}"
            for name in state
            if state[name] != self.state[name]
        ]
        if found:
            self._repair()
            self.state = self._state()
        return found

    def _state(self) -> dict[str, Any]:
        files = {}
        for file in sorted(self.folder.iterdir()):
            about = file.lstat()
            files[file.name] = [about.st_mode, about.st_uid, about.st_size, about.st_mtime_ns, about.st_ino]
        pid = self.victim.pid
        return {
            "the folder": files,
            "the secret": (self.folder / "secret.txt").read_text() if (self.folder / "secret.txt").exists() else None,
            "the victim": self.victim.poll(),
            "its priority": os.getpriority(os.PRIO_PROCESS, pid),
            "its tracer": Path(f"/proc/{pid}/status").read_text().partition("TracerPid:")[2].split()[0],
            "its limits": Path(f"/proc/{pid}/limits").read_text(),
            "the host's limits": [resource.getrlimit(kind) for kind in range(16)],
            "the host's priority": os.getpriority(os.PRIO_PROCESS, 0),
            "the machine's name": socket.gethostname(),
            "the mounts": Path("/proc/self/mountinfo").read_text(),
        }

    def _repair(self) -> None:
        for file in self.folder.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.name not in {*self.files, "socket"}:
                file.unlink()
        for name, text in self.files.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755 if name == "program" else 0o644)
        if self.victim.poll() is not None:
            self.victim.communicate()
            self.victim = start_victim()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take it all away."""
        for server in self.servers:
            server.close()
        self.victim.kill()
        self.victim.communicate()
        shutil.rmtree(self.folder)


async def try_all(trap: Trap) -> dict[str, Any]:
    """Each attack, in a sandbox of its own beside a neighbour."""
    from cloister.ipc import IpcError
    from cloister.sandbox import Limits, SandboxError, Spawner

    package, themes = load_catalogue()
    sources = {file.stem: file.read_text() for file in ATTACKS.glob("*.py")}
    outcomes: dict[str, Any] = {}
    turn = asyncio.Semaphore(AT_ONCE)

    async def wait() -> None:
        await asyncio.Event().wait()

    async with Spawner(spares=AT_ONCE) as spawner:

        async def boot(theme: str, name: str, **limits: int) -> Any:
            sandbox = await spawner.take()
            modules = {each: sources[each] for each in ("__init__", "calls")} | {theme: only(sources[theme], name)}
            files = {f"attacks/{each}.py": ("py", source) for each, source in modules.items()}
            env = {
                "WAIT": wait,
                "ECHO": lambda word: word,
                "SECRET": f"{MARKER}-of-{theme}" if theme == "__init__" else "",
            }
            await sandbox.boot("main.py", {"main.py": ("py", PROGRAM), **files}, env, Limits(**limits))
            return sandbox

        async def call(sandbox: Any, method: str, *arguments: Any, limits: Any = None) -> Any:
            payload = await sandbox.call("invoke", [None, method, list(arguments), {}, None], limits)
            return sandbox.decode(payload)

        neighbour = await boot("__init__", "")
        modules = iter(MODULES)
        bait = trap.bait(sibling=neighbour.pid)

        async def attempt(entry: Any) -> None:
            async with turn:
                sandbox = await boot(entry.theme, entry.name, bytes_per_second=package.BYTES)
                expected = {*entry.refusals, *entry.without_namespaces}
                limits = Limits(
                    cpu_ms=package.CPU_MS if package.SPENT in expected else 10_000,
                    wall_ms=package.WALL_MS if package.LATE in expected else None,  # on a busy machine they take long
                )
                try:
                    async with asyncio.timeout(LONGEST):
                        outcome = await call(sandbox, "attack", entry.theme, entry.name, bait, limits=limits)
                except (SandboxError, IpcError) as error:
                    outcome = f"{type(error).__name__}: {error}"
                except Exception as error:  # noqa: BLE001 - nothing else may come out of a sandbox
                    outcome = f"NOT OF THIS PACKAGE: {type(error).__name__}: {error}"
                harm = trap.harm()
                try:
                    module = next(modules) if entry.theme == "memory" else "colorsys"
                    if await call(neighbour, "answer", module, limits=Limits(wall_ms=10_000)) != 42:
                        harm.append("the neighbour gives a wrong answer")
                except (SandboxError, IpcError) as error:
                    harm.append(f"the neighbour fails: {error}")
                await sandbox.close("it was tried")
                outcomes[f"{entry.theme}/{entry.name}"] = [outcome, harm]

        entries = [entry for theme in themes.values() for entry in theme.values()]
        await asyncio.gather(*(attempt(entry) for entry in entries if entry.theme != "memory"))
        for entry in themes["memory"].values():  # which would harm the others, should it succeed
            await attempt(entry)
        layers = dict(spawner.layers)
    return {"uid": os.getuid(), "layers": layers, "outcomes": outcomes}


def only(source: str, name: str) -> str:
    """A theme's source without its other attacks, which need not be compiled for this one."""
    blocks = source.split("\n\n\n")
    return "\n\n\n".join(block for block in blocks if not block.startswith("@attack") or f"def {name}(" in block)


# Unconfined


def prove_all() -> dict[str, Any]:
    """Each attack in a plain process; by root in namespaces of their own, where no harm is done."""
    root = os.geteuid() == 0 and contain()
    package, themes = load_catalogue()
    outcomes: dict[str, Any] = {}
    with Trap() as trap:
        for entry in [entry for theme in themes.values() for entry in theme.values()]:
            outcome = prove(entry, trap.bait(sibling=trap.victim.pid), package)
            outcomes[f"{entry.theme}/{entry.name}"] = [outcome, trap.harm()]
    return {"root": root, "outcomes": outcomes}


def contain() -> bool:
    """Go on as the first process of namespaces of its own, with a loopback interface. False where that is not given."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000) < 0:
        return False
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    libc.mount(None, b"/", None, ctypes.c_ulong(16384 | 1 << 18), None)
    libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))
    return True


def prove(entry: Any, bait: dict[str, Any], package: ModuleType) -> str:
    """What comes of one attack in a child that nothing stops."""
    ours, theirs = socket.socketpair()
    said, say = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.memfd_create("input"), 0)  # its own: whoever else runs this has the same /dev/null
        os.dup2(say, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(theirs.fileno(), 3)
        os.closerange(4, 256)
        alone(entry, bait, package)
    theirs.close()
    os.close(say)
    ours.setblocking(False)
    arrived, status = 0, None
    deadline = time.monotonic() + LONGEST
    try:
        while time.monotonic() < deadline:
            select.select([ours.fileno(), said], [], [], 0.02)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                arrived += len(ours.recv(1 << 16)) or 1
            if entry.theme == "wire" and entry.endless and arrived:
                return f"done: {arrived} bytes have arrived, or the end"
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if found and os.WIFSTOPPED(status):
                return "done: it has stopped"
            if found:
                child = 0
                with open(said, closefd=False) as pipe:
                    return pipe.read() or f"ended with {os.waitstatus_to_exitcode(status)}"
            if entry.endless and entry.theme != "wire" and beyond(child, entry, package):
                return "done: it would still go on"
        return f"was still there after {LONGEST} s"
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        ours.close()
        os.close(said)


def beyond(pid: int, entry: Any, package: ModuleType) -> bool:
    """Whether a process has used more than the limit that is to end it."""
    if package.SPENT in entry.refusals:
        return bool(time.clock_gettime((~pid << 3) | 2) > 2 * package.CPU_MS / 1000)
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return bool(age > package.WALL_MS / 1000)


def alone(entry: Any, bait: dict[str, Any], package: ModuleType) -> NoReturn:
    """One attack, here and now."""
    if entry.theme == "memory":
        share()
    try:
        outcome = asyncio.run(package.told(entry.function, package.Bait(**bait)))
    except SystemExit as end:
        outcome = f"done: the process ends with {end.code}"
    with contextlib.suppress(OSError):
        os.write(1, outcome.encode())
    os._exit(0)


def share() -> None:
    """Memory that others would have too, as a zygote of little care would leave it."""
    import mmap

    sys.modules["shared"] = ModuleType("shared")
    vars(sys.modules["shared"])["view"] = memoryview(mmap.mmap(-1, 1 << 16))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "become":
        lesser: Any = load(LESSER, "lesser_user")
        level, place = arguments
        shutil.copytree(ATTACKS, Path(place, "attacks"))
        for each in Path(place, "attacks").glob("**/*"):
            each.chmod(0o755)
        lesser.__file__ = __file__  # the program to go on with as that user
        lesser.become(level, Path(place))
    elif what == "prove":
        print(json.dumps(prove_all()))
    else:
        with Trap() as set_up:
            report = asyncio.run(try_all(set_up))
        print(json.dumps(report))
