"""The table of layers: its order, what it says of a machine, and that each step is tried before it is relied on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox import Spawner
from cloister.sandbox.lockdown.levels import LEVELS, REMEDIES, level, missing
from cloister.sandbox.lockdown.sequence import FLOOR, LAYERS

# ruff: noqa: ASYNC240 - a test may look into /proc
NAMES = [layer.name for layer in LAYERS]
EVERYTHING = dict.fromkeys(NAMES, "active")
NAMESPACES = ("processes", "mount", "net", "ipc", "uts", "cgroup", "root")
CAPABILITIES = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)

rooted = pytest.mark.skipif(not CAPABILITIES & 1 << 21, reason="only root has something to give up")


def alone(program: str) -> Any:
    """What a program of its own process says, as JSON: it gives up what this process needs."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


# The table


def test_each_layer_says_what_it_is_for() -> None:
    """A name of its own, what it stops, what gets it, and something that is done."""
    assert len(set(NAMES)) == len(NAMES)
    for layer in LAYERS:
        assert layer.stops, layer.name
        assert REMEDIES[layer.name], layer.name
        assert layer.once is not None or layer.each is not None, layer.name


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("user", "mount"),  # the right to the others comes from it
        ("user", "capabilities"),
        ("processes", "root"),  # needs /proc
        ("mount", "root"),
        ("net", "root"),
        ("root", "capabilities"),  # mounting needs one
        ("cgroups", "identity"),  # another user may not join
        ("limits", "identity"),  # may not raise what is above a soft limit
        ("identity", "capabilities"),
        ("identity", "parent"),  # a change of ids forgets whose death is ours
        ("identity", "dumpable"),  # and makes it dumpable again, by the system's setting
        ("capabilities", "no_new_privs"),
        ("no_new_privs", "landlock"),  # may be entered without privileges only then
        ("no_new_privs", "seccomp"),
        ("descriptors", "landlock"),
        *[(name, "seccomp") for name in NAMES if name != "seccomp"],  # it refuses all the rest
    ],
)
def test_the_order_is_the_argument(first: str, then: str) -> None:
    """One needs what the other takes away, or the other undoes it."""
    assert NAMES.index(first) < NAMES.index(then)


def test_the_readme_has_the_table() -> None:
    """As it is here: each layer and what it stops."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = [f"| `{layer.name}` | {layer.stops} |" for layer in LAYERS]
    assert "| layer | what it stops |\n|---|---|\n" + "\n".join(rows) + "\n" in readme


def test_levels() -> None:
    """Everything; all but what root gives; no namespaces; less than the floor."""
    assert (level(EVERYTHING), set(LEVELS)) == ("a", {"a", "b", "c", ""})
    assert level(EVERYTHING | {"user": "root needs none", "pids": "root needs none"}) == "a"
    for name in ("identity", "cgroups", "capabilities", "uts", "cgroup"):
        assert level(EVERYTHING | {name: "not available: because"}) == "b", name
    for name in ("processes", "mount", "net", "ipc", "root"):
        assert level(EVERYTHING | {name: "needs the user namespace"}) == "c", name
    for name in FLOOR:
        assert level(EVERYTHING | {name: "not available: because"}) == "", name
    assert level({}) == ""


def test_what_is_missing_is_told_with_its_remedy() -> None:
    """What one thing gets is told of once; only what is asked for counts; what is not known is not there."""
    assert missing(EVERYTHING, NAMES) == []
    state = EVERYTHING | {"net": "not available: no way", "ipc": "not available: none", "identity": "only root may"}
    found = missing(state, NAMES)
    assert len(found) == 2
    assert found[0].startswith("net (no way), ipc (none). What gets it: run as root, or allow user namespaces: sysctl")
    assert found[1].startswith("identity (only root may). What gets it: run as root with CAP_SETUID and CAP_SETGID")
    assert missing(state, FLOOR) == []
    assert missing({}, ["seccomp"])[0].startswith(
        "seccomp (unknown). What gets it: a kernel with CONFIG_SECCOMP_FILTER"
    )


# What is measured


def test_what_each_layer_costs_is_measured(spawner: Spawner) -> None:
    """What the zygote did once, and what a child does: where something is done it takes time, elsewhere none."""
    assert list(spawner.costs) == NAMES
    for layer in LAYERS:
        once, each = spawner.costs[layer.name]
        if spawner.layers[layer.name] == "active" and layer.name != "cgroups":
            assert (once > 0) is (layer.once is not None), layer.name
        if layer.name != "processes":
            assert (each > 0) is (layer.each is not None), layer.name
    assert (spawner.costs["processes"][1] > 0) is (spawner.layers["processes"] == "active")


JAIL = """
import errno, json, os
for place in (3, 4, 5):
    os.dup2(0, place)
from cloister.sandbox.lockdown import identity, jail, kernel, landlock, limits, seccomp
def refuse(*_):
    raise OSError(errno.EPERM, "it is refused")
def broken(*_):
    os._exit(7)
def for_children(how, close_from=kernel.close_from):
    # Not for whoever stays behind when the zygote of an ordinary user becomes process 1.
    return lambda first: close_from(first) if first == 3 else how()
"""


@pytest.mark.parametrize(
    ("step", "layer"),
    [
        ("kernel.close_from", "descriptors"),
        ("landlock.restrict", "landlock"),
        ("seccomp.Rest.install", "seccomp"),
        ("identity.die_with_parent", "parent"),
    ],
)
@pytest.mark.parametrize(("how", "why"), [("refuse", "it is refused"), ("broken", "a child does not survive it")])
def test_a_layer_that_a_child_cannot_enter_is_not_active(step: str, layer: str, how: str, why: str) -> None:
    """A throw-away child has tried it before anybody relies on it; without it nothing untrusted runs."""
    how = f"for_children({how})" if layer == "descriptors" else how
    layers = alone(f"{JAIL}\n{step} = {how}\nprint(json.dumps(jail.enter_jail(64).layers))")
    assert layers[layer] == f"not available: {why}"
    assert level(layers) == ""


@rooted
def test_without_ids_to_give_it_goes_on_with_its_own() -> None:
    """Where root is not allowed what root usually is, there is a level less, and children all the same."""
    layers, own_ids, costs = alone(
        f"{JAIL}\nidentity.become = refuse\nmade = jail.enter_jail(64)\n"
        "print(json.dumps([made.layers, made.own_ids, made.costs]))"
    )
    assert (layers["identity"], own_ids) == ("not available: it is refused", False)
    assert costs["seccomp"][1] > 0
    assert level(layers | {"cgroups": "active"}) == "b"


def test_a_machine_whose_calls_are_not_known_has_no_filter() -> None:
    """And so runs nothing untrusted."""
    layers = alone(f"{JAIL}\nkernel.MACHINE = 'riscv64'\nprint(json.dumps(jail.enter_jail(64).layers))")
    assert layers["seccomp"] == "not available: nothing is known of 'riscv64'"
    assert level(layers) == ""


# One layer at a time, with nothing behind it


def test_landlock_alone_refuses_every_kind_of_access(tmp_path: Path) -> None:
    """Files in all the ways that there are, ports, abstract sockets, and signals: also to root, and to its threads."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").write_text("x")
    refused, version = alone(
        f"""
        import json, os, socket, threading, warnings
        from cloister.sandbox.lockdown import identity, landlock
        warnings.simplefilter("ignore")  # sockets that nobody closes
        place = {str(tmp_path)!r}
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind("\\0cloister-{os.getpid()}")
        abstract.listen(1)
        identity.renounce()
        landlock.restrict(landlock.deny_everything())
        ways = {{
            "read": lambda: open(f"{{place}}/file"), "write": lambda: open(f"{{place}}/file", "r+"),
            "list": lambda: os.listdir(place), "truncate": lambda: os.truncate(f"{{place}}/file", 0),
            "make": lambda: open(f"{{place}}/new", "x"), "mkdir": lambda: os.mkdir(f"{{place}}/new"),
            "fifo": lambda: os.mkfifo(f"{{place}}/new"), "link": lambda: os.symlink("x", f"{{place}}/new"),
            "socket": lambda: socket.socket(socket.AF_UNIX).bind(f"{{place}}/new"),
            "remove": lambda: os.unlink(f"{{place}}/gone"), "rmdir": lambda: os.rmdir(f"{{place}}/folder"),
            "refer": lambda: os.rename(f"{{place}}/file", f"{{place}}/folder/file"),
            "execute": lambda: os.execv("/bin/true", ["true"]),
            "bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
            "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
            "abstract": lambda: socket.socket(socket.AF_UNIX).connect("\\0cloister-{os.getpid()}"),
            "signal": lambda: os.kill(os.getppid(), 0),
        }}
        found = {{}}
        def go():
            for name, way in ways.items():
                try:
                    way()
                except OSError as error:
                    found[name] = type(error).__name__
                else:
                    found[name] = "done"
        go()
        here = dict(found)
        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        assert here == found
        print(json.dumps([found, landlock.version()]))
        """
    )
    later = {"refer": 1, "truncate": 3, "bind": 4, "connect": 4, "abstract": 6, "signal": 6}
    for name, outcome in refused.items():
        if version >= later.get(name, 1):
            assert outcome in {"PermissionError", "OSError"}, name


@rooted
def test_no_capability_is_left_and_none_comes_back() -> None:
    """All five sets are empty, and the bits that would let root be special are locked."""
    sets, bits, again = alone(
        """
        import json, os
        from cloister.sandbox.lockdown import identity, kernel
        identity.empty_bounding_set(identity.last_capability())
        identity.drop_capabilities()
        bits = kernel.prctl(27)
        try:
            again = kernel.prctl(28, 0)
        except OSError as error:
            again = error.strerror
        with open("/proc/self/status") as file:
            sets = {line[:6]: int(line.split()[1], 16) for line in file if line.startswith("Cap")}
        print(json.dumps([sets, bits, again]))
        """
    )
    assert sets == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert (bits, again) == (0b1110_1011, "Operation not permitted")


# On every thread


async def test_every_thread_is_confined(tenant: Any) -> None:
    """Each that a tenant starts has the filter, no new privileges and no capability, as the kernel sees it."""
    await tenant.do(
        """
        import threading
        def main():
            global stop
            stop = threading.Event()
            for _ in range(5):
                threading.Thread(target=stop.wait, daemon=True).start()
        """
    )
    tasks = [file.read_text() for file in Path(f"/proc/{tenant.sandbox.pid}/task").glob("*/status")]
    assert len(tasks) == 6
    for task in tasks:
        found = {name: value.split() for name, _, value in (line.partition(":") for line in task.splitlines())}
        assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == (["1"], ["2"], ["2"])
        assert all(int(found[kind][0], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"))


# What a guest needs

WORK = """
import asyncio

def threads():
    import concurrent.futures, queue, threading, time
    said = queue.Queue()
    workers = [threading.Thread(target=lambda: (time.sleep(0.001), said.put(sum(range(10_000))))) for _ in range(8)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda n: sum(range(n * 1000)), range(64)))) == 64
    condition, event, barrier = threading.Condition(), threading.Event(), threading.Barrier(2)
    with condition:
        condition.wait(0.01)
    threading.Timer(0.001, event.set).start()
    assert event.wait(10)
    other = threading.Thread(target=barrier.wait)
    other.start()
    barrier.wait()
    other.join()
    threading.stack_size(256 * 1024)
    small = threading.Thread(target=int)
    small.start()
    small.join()
    threading.stack_size(0)
    return said.qsize()

def database():
    import sqlite3
    with sqlite3.connect(":memory:") as base:
        base.execute("create table t(a, b)")
        base.executemany("insert into t values(?, ?)", ((n, str(n) * 10) for n in range(50_000)))
        base.execute("create index i on t(b)")
        base.execute("savepoint s")
        base.execute("update t set a = a + 1")
        base.execute("rollback to s")
        [row] = base.execute("select count(*) from (select distinct b || a from t order by 1 desc)")
    base.close()
    return row[0]

def memory():
    import array, mmap
    large = [bytearray(size << 20) for size in (1, 5, 20)]
    large[2].extend(b"x" * (5 << 20))
    del large
    table = {n: str(n) for n in range(100_000)}
    del table
    numbers = array.array("d", [0.0]) * 500_000
    numbers.extend(numbers)
    text = b""
    for _ in range(20):
        text += b"x" * 200_000
    with mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
        room.resize(2 << 20)
        room.madvise(mmap.MADV_DONTNEED)
        room[-1] = 1
    return len(numbers)

def numbers():
    import hashlib, hmac, random, secrets, uuid, zlib
    for name in sorted(hashlib.algorithms_guaranteed):
        digest = hashlib.new(name, b"x" * 100_000)
        digest.digest(8) if name.startswith("shake") else digest.digest()
    hmac.digest(b"k", b"m" * 10_000, "sha256")
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", 100)
    hashlib.scrypt(b"p", salt=b"s", n=1024, r=8, p=1)
    random.shuffle(list(range(1000)))
    random.SystemRandom().random()
    return len({secrets.token_hex(), str(uuid.uuid1()), str(uuid.uuid4())}) + len(zlib.compress(b"x")) * 0

def clocks():
    import datetime, os, resource, time
    time.sleep(0)
    time.sleep(0.001)
    for clock in ("monotonic", "perf_counter", "process_time", "thread_time", "time"):
        assert time.get_clock_info(clock).resolution < 1
        getattr(time, clock)()
    for clock in (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.CLOCK_TAI):
        time.clock_gettime(clock)
    datetime.datetime.now().astimezone()
    resource.getrusage(resource.RUSAGE_SELF)
    resource.getrusage(resource.RUSAGE_THREAD)
    resource.getrlimit(resource.RLIMIT_NOFILE)
    return len(os.times())

def system():
    import faulthandler, os, select, signal, socket
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert os.cpu_count() and len(os.sched_getaffinity(0))
    os.getpid(), os.getppid(), os.getuid(), os.getegid()
    one, other = os.pipe()
    os.set_blocking(one, False)
    os.write(other, b"x")
    assert select.select([one], [], [], 0)[0] == [one]
    poll, epoll = select.poll(), select.epoll()
    poll.register(one, select.POLLIN)
    epoll.register(one, select.EPOLLIN)
    assert poll.poll(0) and epoll.poll(0)
    epoll.close()
    os.close(os.dup(one))
    with os.fdopen(other, "wb") as file:
        file.write(b"y")
    assert os.read(one, 9) == b"xy"
    os.close(one)
    a, b = socket.socketpair()
    with a, b:
        a.sendall(b"abc")
        assert b.recv(1, socket.MSG_PEEK) + b.recv(3) == b"aabc"
        b.settimeout(0.001)
        try:
            b.recv(1)
        except TimeoutError:
            a.shutdown(socket.SHUT_WR)
        assert b.recv(1) == b"" and a.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        socket.socket(fileno=os.dup(a.fileno())).close()
    return caught

async def streams():
    import socket
    ends = [await asyncio.open_connection(sock=end) for end in socket.socketpair()]
    (_, writer), (reader, other) = ends
    async def read():
        count = 0
        while count < 1_500_000:
            count += len(await reader.read(65536))
        return count
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        for _ in range(15):  # more than the socket takes at once
            writer.writelines([b"x" * 50_000, b"y" * 50_000])
        await writer.drain()
    for end in (writer, other):
        end.close()
        await end.wait_closed()
    return reading.result()

async def tasks():
    import threading
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(asyncio.sleep(0.001))
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.001)
    except TimeoutError:
        pass
    def own_loop():
        results.append(asyncio.run(asyncio.sleep(0.001, "slept")))
    results = []
    thread = threading.Thread(target=own_loop)
    thread.start()
    await asyncio.to_thread(thread.join)
    return results

def errors():
    import logging, traceback, warnings
    def deep(n):
        return deep(n + 1)
    try:
        deep(0)
    except RecursionError:
        logging.getLogger("x").warning("hello")
        return "deep" in traceback.format_exc()

def main(name):
    return globals()[name]()
"""


@pytest.mark.parametrize(
    ("work", "result"),
    [
        ("threads", 8),
        ("database", 50_000),
        ("memory", 1_000_000),
        ("numbers", 3),
        ("clocks", 5),
        ("system", [1]),
        ("streams", 1_500_000),
        ("tasks", ["slept"]),
        ("errors", True),
    ],
)
async def test_what_a_guest_does_needs_no_call_that_is_refused(
    boot: Callable[..., Any], work: str, result: Any
) -> None:
    """Threads, tasks, streams, a database in memory, large objects, digests, clocks, pipes, signals to itself."""
    tenant = await boot()
    assert await tenant.do(WORK, work) == result
