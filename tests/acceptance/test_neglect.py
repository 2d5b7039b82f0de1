"""What the author of a workflow has forgotten to await or to call: a line in the log says so, and nothing else happens.

A program that leaves a sleep or a step out on purpose runs as ever, and is told nothing that is not true.
"""

from __future__ import annotations

from typing import Any

import pytest

from cloister.loader import TailEvent

HEAD = """
import asyncio
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
"""


async def warned(stage: Any, body: str, output: Any = None) -> list[str]:
    """What a run with this body is warned of, once it has come to this output."""
    events: list[TailEvent] = []
    stage.options = {"tails": (events.append,)}
    lines = "".join(f"        {line}\n" for line in body.strip("\n").splitlines())
    instance = await stage.bind(HEAD + lines).create()
    assert await stage.outcome(instance) == output
    await stage.until(lambda: _any(events))
    return [line.text for event in events for line in event.logs if line.level == "warning"]


async def _any(events: list[TailEvent]) -> bool:
    return bool(events)


async def test_a_sleep_that_nobody_awaits_is_told_of(stage: Any) -> None:
    """Each that was forgotten, by its name; the others, which the run has slept, are none of it."""
    body = """
step.sleep("nap", "1 minute")
step.sleep_until("night", 1_000)
step.sleep("moment", 0)
await step.sleep("slept", "1 second")
return 1
"""
    nap, night, moment = await warned(stage, body, 1)
    assert "step.sleep('nap', ...) was called and never awaited" in nap
    assert "write `await step.sleep_until('night', ...)`" in night
    assert "'moment'" in moment


ASKED_FOR = {
    "later": """
later = step.sleep("a", "1 minute")
await step.do("b", lambda: 1)
await later
""",
    "in a race that it loses": """
await asyncio.wait({step.sleep("a", "1 hour"), step.sleep("b", 1)}, return_when="FIRST_COMPLETED")
""",
    "with others": """
await asyncio.gather(step.sleep("a", 1), step.sleep("b", 2))
""",
    "given up": """
later = step.sleep("a", "1 hour")
later.cancel()
await step.do("b", lambda: 1)
""",
    "for as long as there is time": """
try:
    async with asyncio.timeout(0.01):
        await step.sleep("a", "1 hour")
except TimeoutError:
    pass
""",
    "by a function": """
ended = []
step.sleep("a", 0).add_done_callback(ended.append)
while not ended:
    await step.do("b", lambda: asyncio.sleep(0))
""",
}
COULD_BE_CALLED = {
    "under a condition": """
@step.do("a")
def a():
    return 1
if event.payload:
    await a()
""",
    "by a step that depends on it": """
@step.do("a")
def a():
    return 1
@step.do("b")
def b(a):
    return a
if event.payload:
    await b()
""",
    "and was, by a list": """
@step.do("a")
def a():
    return 1
@step.do("b", depends=[a])
def b(x):
    return x
await b()
""",
    "from another function": """
@step.do("a")
def a():
    return 1
async def all_of_it():
    await a()
if event.payload:
    await all_of_it()
""",
    "by a name that is looked up": """
@step.do("a")
def a():
    return 1
if event.payload:
    await locals()["a"]()
""",
    "by its place": """
steps = []
for number in range(3):
    @step.do(f"s{number}")
    def one():
        return number
    steps.append(one)
await steps[1]()
""",
}


@pytest.mark.parametrize("how", ASKED_FOR)
async def test_a_sleep_that_somebody_asks_for_is_not(stage: Any, how: str) -> None:
    """The author knows of it."""
    assert await warned(stage, ASKED_FOR[how]) == []


async def test_a_step_that_is_never_spoken_of_again_is_told_of(stage: Any) -> None:
    """Declared and left: it did not run, and no condition could have had it run."""
    body = """
@step.do("charge the card")
async def charge():
    return 1
for number in range(2):
    @step.do(f"mail {number}")
    def mail(ctx):
        return number
return await step.do("ship", lambda: "shipped")
"""
    charge, *mails = await warned(stage, body, "shipped")
    assert charge.endswith(
        "step 'charge the card' is declared and never called, so it did not run: write `await charge()`"
    )
    assert ["'mail 0'" in mails[0], "'mail 1'" in mails[1]] == [True, True]


@pytest.mark.parametrize("how", COULD_BE_CALLED)
async def test_a_step_that_could_have_been_called_is_not(stage: Any, how: str) -> None:
    """Nobody can tell that it was forgotten."""
    assert await warned(stage, COULD_BE_CALLED[how]) == []


async def test_a_run_that_fails_is_told_of_its_failure_alone(stage: Any) -> None:
    """What it had begun is not awaited because it has failed."""
    body = 'step.sleep("a", "1 hour")\n@step.do("b")\ndef b(): return 1\nraise ValueError("no")'
    assert await warned(stage, body, {"name": "ValueError", "message": "no"}) == []


FAILS = {
    "a filter that raises": """
import logging
def strict(record):
    raise ValueError(record.getMessage())
logging.getLogger("workers").addFilter(strict)
""",
    "a wrapper that leads to itself": """
def run(self, event, step, real=TenantWorkflow.run):
    return real(self, event, step)
TenantWorkflow.run = run.__wrapped__ = run
""",
}


@pytest.mark.parametrize("how", FAILS)
async def test_what_cannot_be_told_costs_no_run_its_result(stage: Any, how: str) -> None:
    """It has come to it before."""
    body = "        @step.do('a')\n        def a(): pass\n        step.sleep('b', 1)\n        return 7\n"
    instance = await stage.bind(f"{HEAD}{body}{FAILS[how]}").create()
    assert await stage.outcome(instance) == 7
