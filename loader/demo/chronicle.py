"""What the host told, remembered by the director, who outlives it: pipelines, sandboxes, log lines, lives of the host.

Names, log lines and outputs come out of sandboxes. They are made harmless here, before anybody can print them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..timeline import plain
from .forge import Repository
from .process import DemoFailed, limit

_PATIENCE: Final = 150.0  # of a busy machine
_RULERS: Final = re.compile(r"[-=]{10,}")
_FINAL: Final = frozenset({"complete", "errored", "terminated"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the engine has it. Times are seconds since the epoch."""

    kind: str
    name: str
    status: str
    attempts: int
    started: float | None
    ended: float | None
    error: str

    @property
    def over(self) -> bool:
        """Whether its outcome is on record."""
        return self.status in {"done", "failed"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, and when it was heard of. `kind` is act, step, sandbox, line or end."""

    at: float
    kind: str
    about: str  # a repository, or nobody
    text: str


@dataclass
class Life:
    """One life of the host process. `down` is None while it lasts."""

    pid: int
    up: float
    down: float | None = None


@dataclass
class Pipeline:
    """One repository's pipeline as far as it has been heard of. `losses` are what its sandboxes were lost to."""

    repository: Repository
    status: str = "-"
    steps: tuple[Step, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    sandbox: int | None = None
    boots: list[float] = field(default_factory=list)
    evictions: list[float] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    line: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _FINAL

    @property
    def verdict(self) -> str:
        """What its author's code made of the push."""
        return plain(self.output.get("verdict", ""), 20)

    def lose_sandbox(self, how: str) -> None:
        """Its sandbox is no more. What has ended does not miss it."""
        self.sandbox = None
        if self.boots and not self.ended:
            self.losses.append(how)

    def step(self, name: str) -> Step | None:
        """A step by its name, if it has been reached."""
        return next((step for step in self.steps if step.name == name), None)

    def is_at(self, name: str) -> bool:
        """Whether a sleep or a wait has begun and not ended."""
        step = self.step(name)
        return step is not None and step.status == "waiting"


class Chronicle:
    """`listener`, if there is one, is called with each new entry."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.began = time.time()
        self.pipelines = {name: Pipeline(repository) for name, repository in repositories.items()}
        self.lives: list[Life] = []
        self.entries: list[Entry] = []
        self.listener: Callable[[Entry], None] = lambda entry: None
        self._changed = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the host is ready."""
        return bool(self.lives) and self.lives[-1].down is None

    def note(self, kind: str, about: str, text: str) -> None:
        """Write down what was just heard of, or done."""
        entry = Entry(time.time(), kind, about, text)
        self.entries.append(entry)
        self.listener(entry)

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for what can be heard. `DemoFailed` if it takes too long, or if the host is gone meanwhile."""
        async with limit(_PATIENCE, f"the time when {what}"):
            while not condition():
                if not self.up:
                    raise DemoFailed(f"the host ended by itself, before {what}")
                self._changed.clear()
                await self._changed.wait()

    def hear(self, message: dict[str, Any]) -> None:
        """A message of the host."""
        pipeline = self.pipelines.get(message.get("repository", ""))
        match message["news"]:
            case "ready":
                self.lives.append(Life(message["pid"], time.time()))
            case "gone" if self.up:
                self.lives[-1].down = time.time()
                for each in self.pipelines.values():
                    each.lose_sandbox("killed")
            case "status" if pipeline is not None:
                self._status(pipeline, message["status"])
            case "sandbox" if pipeline is not None:
                self._sandbox(pipeline, message["kind"], message["number"], message["time"])
            case "line" if pipeline is not None:
                pipeline.line = plain(" ".join(_RULERS.sub(" ", message["text"]).split()), 100)
                self.note("line", pipeline.repository.full_name, pipeline.line)
        self._changed.set()

    def _sandbox(self, pipeline: Pipeline, kind: str, number: int, at: float) -> None:
        name = pipeline.repository.full_name
        if kind == "boot":
            pipeline.boots.append(at)
            pipeline.sandbox = number
            again = ": what is on record is replayed" if len(pipeline.boots) > 1 else ""
            self.note("sandbox", name, f"boots in sandbox {number}{again}")
            return
        if kind == "evict":
            pipeline.evictions.append(at)
            kind = "evicted"
        pipeline.lose_sandbox(kind)
        self.note("sandbox", name, f"sandbox {number} {kind}")

    def _status(self, pipeline: Pipeline, status: dict[str, Any]) -> None:
        name, was_ended = pipeline.repository.full_name, pipeline.ended
        known = set(pipeline.steps)
        pipeline.steps = tuple(_step(found) for found in status["steps"])
        for step in pipeline.steps:
            if step not in known and step.status != "running":
                if step.status == "retrying":
                    pipeline.failures[step.name] = step.error
                self.note("step", name, describe(step))
        pipeline.status = status["status"]
        if pipeline.ended and not was_ended:
            output = status["output"]
            pipeline.output = output if isinstance(output, dict) else {}
            pipeline.error = _error(status["error"])
            self.note("end", name, f"ended: {pipeline.verdict or pipeline.error or pipeline.status}")


def describe(step: Step) -> str:
    """What has become of a step, in words."""
    took = (step.ended or 0) - (step.started or 0)
    match step.kind, step.status:
        case "do", "done":
            return f"{step.name}: done" + (f", at attempt {step.attempts}" if step.attempts > 1 else "")
        case "do", "retrying":
            return f"{step.name}: attempt {step.attempts} failed: {step.error}"
        case "sleep", "done":
            return f"{step.name}: slept {took:.2f} s"
        case "sleep", _:
            return f"{step.name}: sleeps"
        case "wait", "done":
            return f"{step.name}: came after {took:.2f} s"
        case "wait", "waiting":
            return f"{step.name}: waits for it"
    return f"{step.name}: failed: {step.error}"


def _step(found: dict[str, Any]) -> Step:
    name = plain(found["name"], 40) + (f" ({found['count']})" if found["count"] > 1 else "")
    started, ended = (None if found[key] is None else found[key] / 1000 for key in ("started", "ended"))
    return Step(found["kind"], name, found["status"], found["attempts"], started, ended, _error(found["error"]))


def _error(error: dict[str, str] | None) -> str:
    return "" if error is None else plain(f"{error['name']}: {error['message']}")
