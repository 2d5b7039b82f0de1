"""A real sandbox, seen from outside and tried from inside: what the machine gives of each layer is in force."""

from __future__ import annotations

import os
import platform
import socket
import stat
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.sandbox import Limits, SandboxDied, Spawner
from cloister.sandbox.lockdown.syscalls import NUMBERS

Status = Callable[[int], dict[str, str]]
LAYERS = (
    "user pids processes mount net ipc uts cgroup root cgroups descriptors limits identity capabilities session parent "
    "dumpable no_new_privs landlock seccomp"
).split()

# ruff: noqa: ASYNC240 - a test may look into /proc
CAPABILITIES = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
MAY_LOOK, MAY_MOUNT = bool(CAPABILITIES & 1 << 19), bool(CAPABILITIES & 1 << 21)
ELSEWHERE = """
    import asyncio, ctypes, sys, time
    from cloister.sandbox import Limits, Spawner

    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((None, b"/", None, 16384 | 1 << 18), (sys.argv[1].encode(), b"/etc/localtime", None, 4096)):
        assert libc.unshare(0x20000) == 0 and libc.mount(*arguments, None) == 0, ctypes.get_errno()
    time.tzset()
    code = "import time\\nfrom workers import WorkerEntrypoint\\nclass Default(WorkerEntrypoint):\\n" \\
        "    def ask(self): return time.localtime().tm_gmtoff"

    async def main():
        async with Spawner(spares=0) as spawner:
            sandbox = await spawner.take()
            await sandbox.boot("main.py", {"main.py": ("py", code)}, {}, Limits())
            answer = await sandbox.call("invoke", [None, "ask", [], {}, None])
            print(time.localtime().tm_gmtoff, sandbox.decode(answer))

    asyncio.run(main())
"""


def require(spawner: Spawner, *layers: str) -> None:
    """Skip where the machine does not give what a test is about; what it gives is told by name."""
    for layer in layers:
        if spawner.layers[layer] != "active":
            pytest.skip(f"{layer}: {spawner.layers[layer]}")


# From outside


def test_every_layer_is_reported(spawner: Spawner) -> None:
    """As active, or with the reason why it is not; the filter and Landlock are there in any case."""
    assert list(spawner.layers) == LAYERS
    assert all(spawner.layers.values())
    assert spawner.layers["seccomp"] == spawner.layers["landlock"] == spawner.layers["no_new_privs"] == "active"
    if MAY_LOOK:
        assert spawner.layers["user"] == "root needs none"


async def test_the_kernel_confirms_it(spawner: Spawner, tenant: Any, status: Status) -> None:
    """No new privileges, a filter, no capability of any kind, one thread, and no way for a debugger."""
    found = status(tenant.sandbox.pid)
    assert (found["NoNewPrivs"], found["Seccomp"], found["Threads"]) == ("1", "2", "1")
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind], 16) == 0
    if spawner.layers["capabilities"] == "active":
        assert int(found["CapBnd"], 16) == 0
    assert found["TracerPid"] == "0"


async def test_each_sandbox_has_a_user_id_of_its_own(
    spawner: Spawner, boot: Callable[..., Any], status: Status
) -> None:
    """Not ours, not its sibling's, and no groups."""
    require(spawner, "identity")
    first, second = await boot(), await boot()
    ids = [status(each.sandbox.pid)[kind].split() for each in (first, second) for kind in ("Uid", "Gid")]
    assert all(len(set(of_one)) == 1 and int(of_one[0]) not in {0, os.getuid(), os.getgid()} for of_one in ids)
    assert ids[0] != ids[2]
    assert status(first.sandbox.pid)["Groups"] == ""


async def test_each_sandbox_is_process_one_of_its_own_namespace(
    spawner: Spawner, boot: Callable[..., Any], status: Status
) -> None:
    """It sees nobody, not even its sibling."""
    require(spawner, "processes")
    first, second = await boot(), await boot()
    for each in (first, second):
        assert status(each.sandbox.pid)["NSpid"].split()[-1] == "1"
        assert await each.do("import os\ndef main(): return [os.getpid(), os.getppid()]") == [1, 0]


@pytest.mark.skipif(not MAY_LOOK, reason="only root may look into a process that is not dumpable")
async def test_namespaces_root_and_descriptors(spawner: Spawner, boot: Callable[..., Any]) -> None:
    """None of the host's namespaces, an empty root, an empty environment, and no descriptor that says anything."""
    first, second = await boot(), await boot()
    place = Path(f"/proc/{first.sandbox.pid}")
    for layer, name in (("mount", "mnt"), ("net", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")):
        if spawner.layers[layer] == "active":
            assert (place / "ns" / name).readlink() != Path("/proc/self/ns", name).readlink()
    if spawner.layers["processes"] == "active":
        assert (place / "ns/pid").readlink() != Path(f"/proc/{second.sandbox.pid}/ns/pid").readlink()
    if spawner.layers["root"] == "active":
        assert list((place / "root").iterdir()) == []
        assert (place / "cwd").readlink() == Path("/")
    assert (place / "environ").read_bytes() == b""
    assert (place / "cmdline").read_bytes().endswith(b"\0")
    kinds = sorted(str(file.readlink()).partition("[")[0] for file in (place / "fd").iterdir())
    assert kinds == ["/dev/null"] * 3 + ["anon_inode:", "socket:"]
    assert not list((place / "task").glob("*/children")) or all(
        file.read_text() == "" for file in (place / "task").glob("*/children")
    )


@pytest.mark.skipif(not MAY_LOOK, reason="only root may read the limits of a process that is not dumpable")
async def test_resource_limits_are_set_and_cannot_be_raised(tenant: Any) -> None:
    """Soft and hard are the same: core files, files, descriptors, locked memory, queues, address space."""
    rows = Path(f"/proc/{tenant.sandbox.pid}/limits").read_text().splitlines()[1:]
    limits = {row[:25].strip(): row[25:].split()[:2] for row in rows}
    for name in ("Max core file size", "Max file size", "Max locked memory", "Max msgqueue size", "Max nice priority"):
        assert limits[name] == ["0", "0"], name
    assert limits["Max open files"] == ["64", "64"]
    soft, hard = limits["Max address space"]
    assert soft == hard != "unlimited"


async def test_a_sandbox_is_in_a_control_group_of_its_own(spawner: Spawner, boot: Callable[..., Any]) -> None:
    """The host is in none of them, and its siblings are in others."""
    require(spawner, "cgroups")
    first, second = await boot(), await boot()
    for each in (first, second):
        groups = Path(f"/proc/{each.sandbox.pid}/cgroup").read_text().splitlines()
        assert any("/cloister-" in group and group.endswith(f"/{each.sandbox.number}") for group in groups)
    assert "/cloister-" not in Path("/proc/self/cgroup").read_text()


# From inside


WAYS = """
import _io, os, posix
def ways(path, os=os, open=open):
    return {
        "open": lambda: open(path), "write": lambda: open(path, "w"), "raw": lambda: os.open(path, os.O_RDWR),
        "create": lambda: os.open(path, os.O_CREAT | os.O_WRONLY), "list": lambda: os.listdir(path),
        "stat": lambda: os.stat(path), "lstat": lambda: os.lstat(path), "scan": lambda: list(os.scandir(path)),
        "chdir": lambda: os.chdir(path), "mkdir": lambda: os.mkdir(path + "d"), "unlink": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, path + "2"), "link": lambda: os.symlink(path, path + "3"),
        "chmod": lambda: os.chmod(path, 0o777), "statvfs": lambda: os.statvfs(path),
        "readlink": lambda: os.readlink(path), "xattr": lambda: os.listxattr(path),
        "truncate": lambda: os.truncate(path, 0), "utime": lambda: os.utime(path), "fifo": lambda: os.mkfifo(path),
    }
"""
REFUSED = {"PermissionError", "OSError", "FileNotFoundError"}
IN_MEMORY = {"/", "/tmp/x"}
"""What Python's own functions find there is the guest's, and was never asked of the kernel."""


@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/dev/null", "/tmp/x", "x"])
async def test_no_path_can_be_opened_listed_looked_at_or_made(tenant: Any, path: str) -> None:
    """Of the host or of its own, to read or to write."""
    source = WAYS + "def main(path, *given): return {name: attempt(way) for name, way in ways(path, *given).items()}"
    kernel = source + "\ninner = main\ndef main(path): return inner(path, posix, _io.FileIO)"
    for program in (kernel,) if path in IN_MEMORY else (kernel, source):
        outcomes = await tenant.do(program, path)
        assert set(outcomes.values()) <= REFUSED, outcomes


@pytest.mark.parametrize("path", [".", "/"])
async def test_where_it_seems_to_be_there_is_what_came_along_and_nothing_else(tenant: Any, path: str) -> None:
    """Its own modules, from memory: no folder of the host's, and none to write into."""
    source = (
        WAYS
        + """
def main(path):
    seen = {name: way for name, way in ways(path).items() if name in ("list", "stat", "lstat", "scan")}
    looks = [seen["list"](), [each.name for each in seen["scan"]()], list(seen["stat"]()), list(seen["lstat"]())]
    return looks, [attempt(way) for name, way in ways(path).items() if name not in seen]
"""
    )
    looks, others = await tenant.do(source, path)
    nothing = [stat.S_IFDIR | 0o555, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert looks == [["main.py"], ["main.py"], nothing, nothing]
    assert set(others) <= REFUSED


async def test_no_socket_can_be_made_and_the_one_it_has_leads_nowhere_else(tenant: Any) -> None:
    """No family, no type; no address to send to; no descriptor by message; no listener."""
    source = """
    import os, socket
    def main():
        families = [value for name, value in vars(socket).items() if name.startswith("AF_")]
        made = {attempt(lambda: socket.socket(family, kind))
                for family in families for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)}
        one, other = socket.socketpair()
        mine = socket.socket(fileno=os.dup(3))
        more = {
            "bind": attempt(lambda: one.bind("/x")), "connect": attempt(lambda: one.connect("/x")),
            "sendto": attempt(lambda: one.sendto(b"x", "/x")), "sendmsg": attempt(lambda: one.sendmsg([b"x"])),
            "pass": attempt(lambda: socket.send_fds(one, [b"x"], [0])), "recvmsg": attempt(lambda: other.recvmsg(1)),
            "datagram": attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
            "host": attempt(lambda: mine.connect("/x")), "name": attempt(lambda: socket.gethostname()),
            "address": attempt(lambda: socket.getaddrinfo("example.com", 80)),
        }
        mine.detach()
        return [sorted(made), more]
    """
    made, more = await tenant.do(source)
    assert made == ["PermissionError"]
    assert more.pop("name") == "'sandbox'"
    assert set(more.values()) <= {"PermissionError", "gaierror"}, more


async def test_no_process_can_be_started(tenant: Any) -> None:
    """By fork, by a program, by a pool, or by the C library."""
    source = """
    import os, subprocess, ctypes
    def main():
        c = ctypes.CDLL(None, use_errno=True)
        return {
            "fork": attempt(os.fork), "exec": attempt(lambda: os.execv("/bin/sh", ["sh"])),
            "spawn": attempt(lambda: os.posix_spawn("/bin/sh", ["sh"], {})), "pty": attempt(os.forkpty),
            "run": attempt(lambda: subprocess.run(["/bin/true"])), "system": attempt(lambda: c.system(b"true")),
        }
    """
    outcomes = await tenant.do(source)
    assert outcomes.pop("system") in {"-1", "32512"}
    assert set(outcomes.values()) == {"PermissionError"}, outcomes


async def test_nobody_can_be_signalled_or_seen(tenant: Any) -> None:
    """Neither the parent, nor everybody, nor by a descriptor."""
    source = """
    import os, signal
    def main(pids):
        found = {str(pid): attempt(lambda: os.kill(pid, 0)) for pid in pids}
        found["group"] = attempt(lambda: os.killpg(0, 0))
        found["pidfd"] = attempt(lambda: os.pidfd_open(1))
        found["queue"] = attempt(lambda: signal.pidfd_send_signal(3, 0))
        found["priority"] = attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
        found["affinity"] = attempt(lambda: os.sched_setaffinity(0, [0]))
        found["ids"] = attempt(lambda: os.setuid(0))
        return found
    """
    found = await tenant.do(source, [os.getpid(), os.getppid(), 1, 2, -1, 0])
    assert set(found.values()) == {"PermissionError"}, found


@pytest.mark.parametrize(
    "call",
    [
        "c.ptrace(0, 0, 0, 0)",
        "c.ptrace(16, HOST, 0, 0)",
        "c.process_vm_readv(HOST, 0, 0, 0, 0, 0)",
        "c.mount(0, b'/', 0, 0, 0)",
        "c.unshare(0x10000000)",
        "c.syscall(BPF, 0, 0, 0)",
        "c.chroot(b'/')",
        "c.setns(3, 0)",
    ],
)
async def test_what_no_library_ever_tries_ends_it(boot: Callable[..., Any], call: str) -> None:
    """Debugging, other processes' memory, mounts, namespaces, programs for the kernel: killed, and told in words."""
    tenant = await boot()
    call = call.replace("HOST", str(os.getpid())).replace("BPF", str(NUMBERS[platform.machine()]["bpf"]))
    source = f"import ctypes\ndef main(): c = ctypes.CDLL(None); return {call}"
    with pytest.raises(SandboxDied, match="killed by SIGSYS: it made a system call that nothing needs"):
        await tenant.do(source)


async def test_no_memory_can_be_made_executable(tenant: Any) -> None:
    """So that what runs is what was there before the tenant came."""
    source = """
    import ctypes, mmap
    def main():
        page = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        c = ctypes.CDLL(None, use_errno=True)
        return [
            attempt(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)),
            [c.mprotect(ctypes.c_void_p(address), 4096, 5), ctypes.get_errno()],
            attempt(lambda: ctypes.CDLL("/lib/x.so")),
        ]
    """
    assert await tenant.do(source) == ["PermissionError", [-1, 1], "OSError"]


async def test_limits_cannot_be_raised(tenant: Any) -> None:
    """Neither the address space that was lowered for it, nor any other."""
    source = """
    import resource
    def main():
        kinds = [resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE]
        def higher(kind):
            soft, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (soft + 1, hard + 1))
        def tried(kind):
            try:
                higher(kind)
            except (ValueError, OSError):
                return "refused"
        return [tried(kind) for kind in kinds]
    """
    assert await tenant.do(source) == ["refused"] * 4


async def test_it_learns_nothing_of_the_host(tenant: Any) -> None:
    """Its name, its kernel, its environment, its arguments, its working folder."""
    source = """
    import os, platform, sys
    def main():
        about = list(platform.uname()) + [platform.node(), platform.platform(), sys.argv, sys.orig_argv, sys.path]
        return [repr(about), dict(os.environ), sys.flags.isolated]
    """
    about, environment, isolated = await tenant.do(source)
    assert socket.gethostname() not in about.replace("sandbox", "")
    assert os.uname().release not in about
    assert os.uname().version not in about
    assert set(environment) <= {"LC_CTYPE"}
    assert isolated == 1


async def test_the_time_zone_of_the_host_is_not_known(tenant: Any) -> None:
    """Wherever that is, inside it is UTC, and no word of it."""
    source = """
    import datetime, os, time
    def main():
        zone = datetime.datetime.now().astimezone().tzinfo.utcoffset(None)
        return [list(time.tzname), time.timezone, time.localtime().tm_gmtoff, zone.total_seconds(), "TZ" in os.environ]
    """
    assert await tenant.do(source) == [["UTC", "UTC"], 0, 0, 0.0, False]


@pytest.mark.skipif(not MAY_MOUNT, reason="it takes a zone to be in")
def test_nor_where_the_host_is_not_in_utc(tmp_path: Path) -> None:
    """A host that is nine hours ahead, and what its tenant says."""
    zone = tmp_path / "zone"
    zone.write_bytes(b"TZif" + bytes(16) + struct.pack(">6IiBB", 0, 0, 0, 0, 1, 4, 9 * 3600, 0, 0) + b"JST\0")
    program = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(zone)]
    told = subprocess.run(program, check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["32400", "0"]


async def test_the_memory_of_the_machine_is_the_sandboxs_own(boot: Any) -> None:
    """Which it may use; how much of the machine's is free cannot be known."""
    tenant = await boot(limits=Limits(memory_bytes=48 << 20))
    source = """
    import os
    def main():
        return [os.sysconf(name) * os.sysconf("SC_PAGESIZE") for name in ("SC_PHYS_PAGES", 85)]
    """
    assert await tenant.do(source) == [48 << 20] * 2
    assert await tenant.do("import os\ndef main(): return attempt(lambda: os.sysconf('SC_AVPHYS_PAGES'))") == (
        "PermissionError"
    )
    assert await tenant.do("import os\ndef main(): return os.sysconf('SC_OPEN_MAX')") == 64


async def test_its_sockets_say_nothing_of_the_host(tenant: Any) -> None:
    """They have no names, at neither end; nor who it is, let alone by a descriptor of it."""
    source = """
    import os, socket
    def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(3)) as host:
            kinds = {"cred": 17, "security": 31, "groups": 59, "pidfd": 77}
            asked = [attempt(lambda: host.getsockopt(socket.SOL_SOCKET, kind, 64)) for kind in kinds.values()]
            return [host.getsockname(), host.getpeername(), asked]
    """
    assert await tenant.do(source) == ["", "", ["PermissionError"] * 4]


async def test_corners_of_the_kernel_that_nothing_needs_are_closed(tenant: Any) -> None:
    """Urgent bytes and filters on sockets, locks that inherit priorities, merged pages, clocks of other processes."""
    source = """
    import ctypes, mmap, platform, socket, struct, time
    def main(futex):
        one, other = socket.socketpair()
        c = ctypes.CDLL(None, use_errno=True)
        code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
        program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
        with one, other, mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
            return [
                attempt(lambda: one.send(b"x", socket.MSG_OOB)), attempt(lambda: other.recv(1, socket.MSG_OOB)),
                attempt(lambda: one.setsockopt(socket.SOL_SOCKET, 26, program)),
                attempt(lambda: page.madvise(mmap.MADV_MERGEABLE)),
                attempt(lambda: time.clock_gettime(~1 << 3 | 2)),
                attempt(lambda: mmap.mmap(-1, 2 << 20, flags=0x40022)),
                "PermissionError" if c.syscall(futex, ctypes.byref(ctypes.c_int()), 6, 0, 0) else "locked",
            ]
    """
    assert set(await tenant.do(source, NUMBERS[platform.machine()]["futex"])) == {"PermissionError"}


async def test_twins_draw_different_numbers(boot: Callable[..., Any]) -> None:
    """They were forked from one process, and share no generator's state."""
    source = """
    import hashlib, os, random, secrets, sqlite3, tempfile, uuid
    def main():
        database = sqlite3.connect(":memory:")
        return [*database.execute("SELECT random(), hex(randomblob(16))").fetchone(),
                random.random(), random.Random().random(), random.SystemRandom().random(), secrets.token_hex(),
                os.urandom(8).hex(), str(uuid.uuid4()), str(uuid.uuid1())[24:] + str(uuid.uuid1()), uuid.getnode(),
                next(tempfile._get_candidate_names())]
    """
    twins = [await (await boot()).do(source) for _ in range(4)]
    for drawn in zip(*twins, strict=True):
        assert len(set(drawn)) == len(twins), drawn


@pytest.mark.skipif(not MAY_LOOK, reason="only root may look into a process that is not dumpable")
async def test_no_descriptor_is_left_whatever_its_number() -> None:
    """A host with many descriptors hands its zygote high numbers; none of them reaches a sandbox."""
    held = [os.dup(0) for _ in range(300)]
    try:
        async with Spawner(spares=0) as spawner:
            sandbox = await spawner.take()
            numbers = sorted(int(file.name) for file in Path(f"/proc/{sandbox.pid}/fd").iterdir())
            assert numbers == list(range(5))
    finally:
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.skipif(not MAY_LOOK, reason="only root may look into a process that is not dumpable")
async def test_a_warm_sandbox_owns_little_memory(boot: Callable[..., Any]) -> None:
    """Whatever it does not change it shares with its siblings; the zygote's own work costs them next to nothing."""
    twins = [await boot() for _ in range(6)]
    for twin in twins:
        assert await twin.do("def main():\n    return 1") == 1
    owned = sorted(psutil.Process(twin.sandbox.pid).memory_full_info().uss for twin in twins)
    assert owned[3] < (3 << 20 if sys.version_info < (3, 12) else 3 << 19)


@pytest.mark.skipif(not MAY_LOOK, reason="only root may look into a process that is not dumpable")
async def test_what_can_be_written_cannot_be_executed_and_libraries_are_mapped_in_few_pieces(tenant: Any) -> None:
    """No mapping is both; a library's code and constants are one, and its data another or two. Of the interpreter's own
    code what is in large pages belongs to no file."""
    pieces: dict[str, list[str]] = {}
    for line in Path(f"/proc/{tenant.sandbox.pid}/maps").read_text().splitlines():
        _, rights, _, _, inode, *name = line.split()
        assert not {"w", "x"} <= set(rights), line
        if inode != "0" and ".so" in name[0]:
            pieces.setdefault(name[0], []).append(rights)
    assert pieces
    for library, found in pieces.items():
        assert found.count("r-xp") == 1 or "libpython" in library, library
        assert len(found) <= 3, (library, found)


async def test_siblings_share_no_stream(boot: Callable[..., Any]) -> None:
    """Not even one that leads nowhere: its flags would carry a bit from one tenant to the other."""
    one, other = await boot(), await boot()
    source = "import fcntl, os\ndef main(set):\n"
    flags = source + "    return [fcntl.fcntl(n, fcntl.F_GETFL) & os.O_APPEND for n in (0, 1, 2)]"
    say = source + "    return [fcntl.fcntl(n, fcntl.F_SETFL, os.O_APPEND) for n in (0, 1, 2)]"
    await one.do(say, 1)
    assert any(await one.do(flags, 1))
    assert await other.do(flags, 1) == [0, 0, 0]


async def test_a_signal_from_another_thread_wakes_the_loop(tenant: Any) -> None:
    """Its handler may hand something to the loop, which is waiting meanwhile."""
    source = """
    import asyncio, signal, threading, time
    async def main():
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(woken.set))
        def later():
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(30)
        threading.Thread(target=later, daemon=True).start()
        await asyncio.wait_for(woken.wait(), 50)
        return "woken"
    """
    assert await tenant.do(source) == "woken"
