"""cloister and its peers side by side: the same workloads, in turn, on the same disk, in one go.

`install.sh` beside this file sets the peers up, with their versions pinned. Who is not there is left out, and said so.
Each workload of each system is a program of its own on an empty store; the systems take turns, round by round, so that
an hour in which the machine is slow is slow for all of them. Figures are medians of the rounds.

All wait for the disk before they go on: that is what is compared. None of the others confines the code that it runs,
but for workerd, which says of itself that it is no hardened sandbox.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import workload  # noqa: E402
from harness import listing, say  # noqa: E402

PEERS = HERE / "peers"
BOOTS, WARM = 300, 256
NUMBERS = {
    **{name: value for name, value in vars(workload).items() if name.isupper()}, "BOOTS": BOOTS, "WARM": WARM,
}  # fmt: skip
TIMEOUT_S = 300
WORKLOADS = ("alone", "together", "crowd", "steps", "sleepers", "recovery", "boot", "memory")


@dataclass(frozen=True)
class System:
    """One of those that are compared: how its driver is started, and what a step of it has waited for."""

    name: str
    durability: str
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    postgres: bool = False
    workloads: tuple[str, ...] = WORKLOADS[:6]


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure of a workload, and whether more of it is better."""

    title: str
    workload: str
    figure: str
    unit: str
    more: bool


LINES = (
    Line("one-step workflow, one at a time, p50", "alone", "p50", "ms", False),
    Line("the same, p99", "alone", "p99", "ms", False),
    Line(f"workflows/s, one step, {workload.TOGETHER} at once", "together", "per_s", "", True),
    Line(f"the same, {workload.CROWD} at once", "crowd", "per_s", "", True),
    Line(f"steps/s, one workflow of {workload.STEPS}", "steps", "per_s", "", True),
    Line("sleepers: created/s", "sleepers", "per_s", "", True),
    Line("sleepers: memory each", "sleepers", "bytes", "KiB", False),
    Line("sleepers: disk each", "sleepers", "disk", "KiB", False),
    Line(f"kill -9, {workload.RUNS} runs of {workload.STEPS_EACH} steps: lost", "recovery", "lost", "", False),
    Line("the same: all ended after the start of the next", "recovery", "seconds", "s", False),
    Line("the same: steps run twice", "recovery", "twice", "", False),
    Line("cold boot of a new tenant, p50", "boot", "p50", "ms", False),
    Line("the same, p99", "boot", "p99", "ms", False),
    Line("memory of a warm tenant", "memory", "bytes", "KiB", False),
)


def systems() -> list[System]:
    """All of them, whether they are here or not."""
    python = PEERS / "python/bin/python"
    modules = PEERS / "node_modules"
    node = modules / ".bin/node"
    dbos = python.parent.parent / "bin/dbos"
    return [
        System("cloister", "WAL, synchronous=FULL", (sys.executable, "cloister_driver.py"), workloads=WORKLOADS),
        System("DBOS, SQLite", "WAL, synchronous=FULL", (str(python), "dbos_driver.py"), (dbos,)),
        System(
            "DBOS, PostgreSQL", "fsync, synchronous_commit", (str(python), "dbos_driver.py"), (dbos,), postgres=True
        ),
        System("Restate", "log synced", (str(python), "restate_driver.py"), (modules / "@restatedev/restate-server",)),
        System("workerd", "synced", (str(node), "workerd_driver.mjs"), (modules / "miniflare",), workloads=WORKLOADS),
    ]  # fmt: skip


# The disk and the processes


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own on an empty cluster; where it listens. It refuses to be root, and is somebody else then."""
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if any(name == each.pw_name for each in pwd.getpwall()))
        as_user = ("setpriv", f"--reuid={user}", "--regid=" + str(pwd.getpwnam(user).pw_gid), "--clear-groups")
        shutil.chown(folder, user)
    data = folder / "cluster"
    quiet: Any = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [*as_user, tool("initdb"), "-D", str(data), "-U", "compare", "-A", "trust", "--no-instructions"], **quiet
    )
    options = f"-k {folder} -c listen_addresses= -c max_connections=200"
    control = [*as_user, tool("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    subprocess.run([*control, "-o", options, "start"], **quiet)
    try:
        subprocess.run(
            [tool("psql"), "-qh", str(folder), "-U", "compare", "-c", "CREATE DATABASE dbos", "postgres"], **quiet
        )
        yield f"postgresql://compare@/dbos?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)


def tool(name: str) -> str:
    """Where one of PostgreSQL's is."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found is None:
        raise FileNotFoundError(f"there is no {name}")
    return found


@contextlib.contextmanager
def driver(system: System, what: str, folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """It, in a group of its own that is ended with it, whatever it has started."""
    process = subprocess.Popen(
        [*system.command, what, str(folder)], cwd=HERE, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill it and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in filter(None, (process.stdout, process.stderr)):
        stream.close()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a driver has said, or why it has said nothing."""
    output, errors = process.communicate(timeout=TIMEOUT_S)
    try:
        found: dict[str, Any] = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        raise RuntimeError(f"ended with {process.returncode}: {errors.strip()[-600:] or output[-600:]}") from None
    return found


# What is asked


def measure(system: System, what: str, folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """One workload of one system; its figures by name."""
    if what == "recovery":
        return recovery(system, folder, environment)
    with driver(system, what, folder, environment) as process:
        found = told(process)
    if (samples := found.pop("ms", None)) is not None:
        found |= {"p50": samples[len(samples) // 2], "p99": samples[int(len(samples) * 0.99)]}
    return {name: value / 1024 if name in {"bytes", "disk"} else value for name, value in found.items()}


def recovery(system: System, folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Everything is killed when half of the steps have run, and started again."""
    bodies = folder / "bodies"
    with driver(system, "crash", folder, environment) as process:
        late = time.monotonic() + TIMEOUT_S
        while not (folder / "created").exists() or _lines(bodies) < workload.RUNS * workload.STEPS_EACH // 2:
            if process.poll() is not None or time.monotonic() > late:
                raise RuntimeError(f"it did not come to the crash: {told(process)}")
            time.sleep(0.01)
    began = time.monotonic()
    with driver(system, "recover", folder, environment) as process:
        found = told(process)
        seconds = time.monotonic() - began
    runs = Counter(bodies.read_text().split("\n")[:-1])
    twice = sum(count - 1 for count in runs.values())
    return {"lost": workload.RUNS - found["ended"], "seconds": seconds, "twice": twice}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def one(system: System, what: str) -> dict[str, float]:
    """On an empty store."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER"), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment = {"PEERS": str(PEERS), "NUMBERS": json.dumps(NUMBERS), **system.environment}
        with contextlib.ExitStack() as stack:
            if system.postgres:
                store = folder / "postgres"
                store.mkdir()
                folder.chmod(0o711)
                environment["POSTGRES"] = stack.enter_context(postgres(store))
            return measure(system, what, folder, environment)


# What is told


def missing(system: System) -> str | None:
    """Why it cannot be measured here."""
    for path in system.needs:
        if not path.exists():
            return f"{path.relative_to(HERE)} is not there; {HERE.name}/install.sh puts it there"
    try:
        if system.postgres:
            tool("initdb"), tool("pg_ctl"), tool("psql")
    except FileNotFoundError as error:
        return f"{error}; install PostgreSQL's server"
    return None


Found = dict[tuple[str, str], list[dict[str, float]]]


def table(compared: Sequence[System], asked: Sequence[str], found: Found) -> list[list[str]]:
    """A row for each figure: ours, and each other's with how many times ours it is."""
    rows = [["durability of each step", *(system.durability for system in compared)]]
    for line in (line for line in LINES if line.workload in asked):
        cells: list[str] = []
        ours: float | None = None
        for system in compared:
            values = [each[line.figure] for each in found.get((system.name, line.workload), []) if line.figure in each]
            if not values:
                cells.append("-" if line.workload not in system.workloads else "failed")
                continue
            value = statistics.median(values)
            ours = value if system.name == "cloister" else ours
            ratio = ""
            if system.name != "cloister" and ours and value:
                ratio = f"  ({value / ours if not line.more else ours / value:.3g}x)"
            cells.append(f"{value:,.{0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2}f}{ratio}")
        rows.append([f"{line.title}{', ' * bool(line.unit)}{line.unit}", *cells])
    return rows


def main() -> None:
    """Ask everybody who is here, in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="[3]")
    parser.add_argument(
        "--only", nargs="+", choices=WORKLOADS, default=WORKLOADS, metavar="WORKLOAD", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--json", metavar="FILE", help="keep what was measured, round by round")
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    compared = []
    for system in systems():
        if (reason := missing(system)) is not None:
            say(f"{system.name} is left out: {reason}.")
        else:
            compared.append(system)
    found: Found = defaultdict(list)
    for number in range(asked.rounds):
        for what in asked.only:
            for system in compared:
                if what not in system.workloads:
                    continue
                try:
                    figures = one(system, what)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    say(f"{system.name}, {what}: {error}")
                    continue
                found[system.name, what].append(figures)
                told_in_short = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
                say(f"round {number + 1}, {what}, {system.name}: {told_in_short}")
    listing(
        "compared (in brackets: how many times better cloister is)",
        ["", *(s.name for s in compared)],
        table(compared, asked.only, found),
    )
    if asked.json:
        Path(asked.json).write_text(
            json.dumps({f"{name}, {what}": each for (name, what), each in found.items()}, indent=1)
        )


if __name__ == "__main__":
    main()
