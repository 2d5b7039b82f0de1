"""When to try again, as functions of numbers: a failed attempt of a step, and a run that was lost with its
process.

The two budgets never mix: what the tenant's code got wrong spends the step's retries, what befell its process
does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .durations import LONGEST_MS

if TYPE_CHECKING:
    from .records import StepConfig

MAX_LOSSES = 10
"""So many runs lost in a row, without one record between them, end an instance with `CrashLoop`."""


def retry_delay(config: StepConfig, attempt: int) -> int | None:
    """Milliseconds from the failure of this attempt (from 1) to the next; None when the retries are spent."""
    if attempt > config.limit:
        return None
    match config.backoff:
        case "constant":
            factor = 1
        case "linear":
            factor = attempt
        case "exponential":
            factor = 1 << min(attempt - 1, 40)
    return min(config.delay_ms * factor, LONGEST_MS)


def postponement(times: int) -> int:
    """Milliseconds to wait after the host was unable to run an instance so many times in a row."""
    return min(100 << min(times - 1, 20), 300_000)


def restart_delay(losses: int) -> int | None:
    """Milliseconds to wait after this many losses in a row; None when there were too many."""
    if losses >= MAX_LOSSES:
        return None
    return 0 if losses <= 1 else min(100 << (losses - 1), 30_000)
