"""What the demo claims, held against what happened. Each difference is a sentence, and one is enough to fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .chronicle import Chronicle, Pipeline
from .grants import receipts
from .timeline import failing_tests

EXPECTED: Final = {"ada/calculator": "published", "grace/pagetext": "failed", "katherine/ledger": "published"}
EVICTED: Final = "ada/calculator"
EVICTED_AFTER: Final = "lint"
ASLEEP: Final = "katherine/ledger"
SLEEP: Final = "settle"
RETRIED: Final = "fetch index"
_SLEEP_SECONDS: Final = 2.0


def differences(chronicle: Chronicle, folder: Path) -> list[str]:
    """What is not as it was to be."""
    pipelines = chronicle.pipelines
    return [
        *(found for name, verdict in EXPECTED.items() for found in _ended(pipelines[name], verdict)),
        *_evicted(pipelines[EVICTED]),
        *_slept_through_the_kill(chronicle, pipelines[ASLEEP]),
        *_retried(pipelines[ASLEEP]),
        *_published(chronicle, folder),
    ]


def _ended(pipeline: Pipeline, verdict: str) -> Iterator[str]:
    name = pipeline.repository.full_name
    if pipeline.status != "complete" or pipeline.verdict != verdict:
        found = pipeline.verdict or pipeline.error or "no verdict"
        yield f"{name} ended {pipeline.status} with {found!r}; {verdict!r} was expected"
    if (len(failing_tests(pipeline)) == 1) != (verdict == "failed"):
        yield f"{name} reports these failing tests: {failing_tests(pipeline)}"
    if (pipeline.step("approval") is not None) != (verdict == "published"):
        yield f"{name} asked for an approval, or did not, against what it found"
    for step in pipeline.steps:
        if step.status != "done":
            yield f"{name} ended with its step {step.name!r} {step.status}"


def _evicted(pipeline: Pipeline) -> Iterator[str]:
    step = pipeline.step(EVICTED_AFTER)
    if not any(step and step.ended and step.ended <= moment < _end(pipeline) for moment in pipeline.evictions):
        yield f"{EVICTED} was not evicted between {EVICTED_AFTER!r} and its end"
    elif max(pipeline.boots) < min(pipeline.evictions):
        yield f"{EVICTED} was not booted again after it was evicted"


def _slept_through_the_kill(chronicle: Chronicle, pipeline: Pipeline) -> Iterator[str]:
    sleep = pipeline.step(SLEEP)
    if sleep is None or sleep.started is None or sleep.ended is None:
        yield f"{ASLEEP} never slept"
    elif len(chronicle.lives) != 2 or not sleep.started < (chronicle.lives[0].down or 0) < sleep.ended:
        yield f"the host was not killed while {ASLEEP} slept"
    elif sleep.ended - sleep.started < _SLEEP_SECONDS:
        yield f"{ASLEEP} woke up early"


def _retried(pipeline: Pipeline) -> Iterator[str]:
    step = pipeline.step(RETRIED)
    if step is None or step.attempts != 3:
        yield f"{RETRIED!r} was not done at the third attempt: {step}"


def _published(chronicle: Chronicle, folder: Path) -> Iterator[str]:
    """The store has what the pipelines say, once each, and nothing of the one that failed."""
    wanted = {
        name: [chronicle.pipelines[name].output.get("digest")] for name in EXPECTED if EXPECTED[name] == "published"
    }
    found = {name: [receipt["digest"] for receipt in each] for name, each in receipts(folder).items()}
    if found != wanted:
        yield f"the store holds {found}, and not {wanted}"


def _end(pipeline: Pipeline) -> float:
    return max((step.ended or 0.0 for step in pipeline.steps), default=0.0)
