"""The plot. Three repositories push; a sandbox is evicted, the host is killed, and every pipeline ends as it should.

Nothing here waits for a time to pass: each act begins when the one before is seen to have happened.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from ..timeline import duration
from .chronicle import Chronicle, Pipeline
from .forge import repositories
from .process import DemoFailed, HostProcess, limit
from .screen import shown
from .timeline import print_figures, print_timeline, print_verdicts
from .verdict import ASLEEP, EVICTED, EVICTED_AFTER, EXPECTED, SLEEP, differences

_FAILING = "grace/pagetext"
_REVIEWER = "margaret"
_LONGEST = 250.0  # on a busy machine; on a quiet one it takes a few seconds
_TAIL = 15


class Director:
    """Gives the orders, in the order of the plot, and writes into the chronicle what it does."""

    def __init__(self, host: HostProcess, chronicle: Chronicle) -> None:
        self._host = host
        self._chronicle = chronicle

    async def perform(self) -> None:
        """The whole of it. A pipeline that ends before its turn is no reason to stop: the verdict will tell."""
        chronicle = self._chronicle
        await self.push(EVICTED)
        chronicle.note("act", "", f"as soon as {EVICTED_AFTER!r} is on record, {EVICTED} is to lose its sandbox")
        eviction = self._host.order("evict", repository=EVICTED, after=EVICTED_AFTER)
        await self.push(_FAILING)
        if await eviction:
            await chronicle.until("the eviction was told", lambda: bool(chronicle.pipelines[EVICTED].evictions))
        await self.push(ASLEEP)
        await chronicle.until(f"{ASLEEP} slept", lambda: _at_or_over(chronicle.pipelines[ASLEEP], SLEEP))
        await self.kill_and_restart()
        await self.approve()
        await chronicle.until("all had ended", lambda: all(each.ended for each in chronicle.pipelines.values()))

    async def push(self, name: str) -> None:
        """The forge delivers a push."""
        repository = self._chronicle.pipelines[name].repository
        self._chronicle.note("act", "", f"{repository.pusher} pushes {repository.commit[:7]} to {name}")
        await self._host.order("push", push=repository.push)

    async def kill_and_restart(self) -> None:
        """Take the host away without a warning, and start it on the same folder."""
        note = self._chronicle.note
        pid = self._chronicle.lives[-1].pid
        doing = "sleeps" if self._chronicle.pipelines[ASLEEP].is_at(SLEEP) else "does not sleep"
        note("act", "", f"kill -9 {pid} (the host), while {ASLEEP} {doing}")
        others = await self._host.kill()
        note("act", "", f"the host is gone, and with it zygote and sandboxes: {others} processes")
        began = time.perf_counter()
        await self._host.start()
        took = duration(time.perf_counter() - began)
        note("act", "", f"started again on the same folder: up as process {self._chronicle.lives[-1].pid}, in {took}")
        again = [each.repository.push for each in self._chronicle.pipelines.values()]
        answers = [await self._host.order("push", push=push) for push in again]
        if any(answer["created"] for answer in answers):
            raise DemoFailed("a push that was delivered twice was run twice")
        note("act", "", "the forge delivers all pushes once more: they are known, nothing runs twice")

    async def approve(self) -> None:
        """Say yes to whoever asks."""
        chronicle = self._chronicle
        asking = [chronicle.pipelines[name] for name, verdict in EXPECTED.items() if verdict == "published"]
        await chronicle.until("approval was asked for", lambda: all(_at_or_over(each, "approval") for each in asking))
        for pipeline in asking:
            if not pipeline.ended:
                name = pipeline.repository.full_name
                chronicle.note("act", "", f"{_REVIEWER} approves {name}")
                await self._host.order("approve", repository=name, by=_REVIEWER)


def _at_or_over(pipeline: Pipeline, step: str) -> bool:
    return pipeline.is_at(step) or pipeline.ended


async def show(console: Console) -> bool:
    """Perform on a folder of its own, print what came of it, and leave nothing behind. Whether all was as expected."""
    with tempfile.TemporaryDirectory(prefix="cloister-demo-") as name:
        folder = Path(name)
        chronicle = Chronicle(repositories())
        console.print("CI as a durable workflow, a different one for each repository.\n")
        try:
            figures = await _perform(console, folder, chronicle)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it ends the show in a sentence
            reason = str(failure) if isinstance(failure, DemoFailed) else f"{type(failure).__name__}: {failure}"
            console.print(f"The demo failed: {reason}.", style="bold red", markup=False)
            _print_log(console, folder)
            return False
        for pipeline in chronicle.pipelines.values():
            console.print()
            print_timeline(console, chronicle, pipeline)
        console.print()
        print_verdicts(console, chronicle)
        console.print()
        print_figures(console, figures)
        return _conclude(console, chronicle, folder)


async def _perform(console: Console, folder: Path, chronicle: Chronicle) -> dict[str, Any]:
    """The show on the screen, then the figures without one."""
    async with limit(_LONGEST, "the end"), HostProcess(folder, chronicle.hear) as host:
        chronicle.began = time.time()
        async with shown(chronicle, console):
            await Director(host, chronicle).perform()
        figures: dict[str, Any] = await host.order("measure")
    return figures


def _conclude(console: Console, chronicle: Chronicle, folder: Path) -> bool:
    found = differences(chronicle, folder)
    console.print()
    for difference in found:
        console.print(f"Not as expected: {difference}.", style="bold red", markup=False, highlight=False)
    if found:
        _print_log(console, folder)
        return False
    console.print(
        "Three programs by three authors ran in confined processes. One was evicted between two steps, the host was "
        "killed while another slept, and each ended once, as if nothing had happened.", style="bold", highlight=False,
    )  # fmt: skip
    return True


def _print_log(console: Console, folder: Path) -> None:
    """The end of what the host wrote to its standard error."""
    lines = (folder / "host.log").read_text("utf-8", "replace").splitlines()[-_TAIL:]
    if lines:
        console.print("The last words of the host:")
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
