"""What Restate's server calls: the workflow of the comparison, as its Python SDK has one write it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import restate
from workload import SLEEP_S, note

compare = restate.Workflow("Compare")


@compare.main()
async def run(ctx: restate.WorkflowContext, asked: dict[str, Any]) -> int:
    """So many steps; or one, and a long sleep."""
    if asked.get("sleep"):
        await ctx.run_typed("before", lambda: 0)
        await ctx.sleep(timedelta(seconds=SLEEP_S))
    total = 0
    for number in range(asked.get("steps", 0)):

        def body(number: int = number) -> int:
            if asked.get("run"):
                note(os.environ["BODIES"], asked["run"], number)
            return number

        total += await ctx.run_typed(f"step {number}", body)
    return total


app = restate.app([compare])
