"""When to try again, as functions of numbers: a failed attempt of a step, and a run that was lost with its
process.

The two budgets never mix: what the tenant's code got wrong spends the step's retries, what befell its process
does not.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from .durations import LONGEST_MS, milliseconds
from .errors import InvalidDuration, NonRetryableDelayError
from .records import ErrorRecord, Outcome, StepConfig

MAX_LOSSES = 10
"""So many runs lost in a row, without one record between them, end an instance with `CrashLoop`."""


def retry_delay(config: StepConfig, attempt: int, base: int | None = None) -> int | None:
    """Milliseconds from the failure of this attempt (from 1) to the next; None when the retries are spent.

    `base` is what the author's own function said, if there is one; it grows as a fixed delay would.
    """
    if attempt > config.limit:
        return None
    match config.backoff:
        case "constant":
            factor = 1
        case "linear":
            factor = attempt
        case "exponential":
            factor = 1 << min(attempt - 1, 40)
    return min((config.delay_ms if base is None else base) * factor, LONGEST_MS)


class Judgement(NamedTuple):
    """What becomes of a step after an attempt. `due` is when the next one may begin."""

    state: Literal["done", "retrying", "failed"]
    due: int | None = None
    error: ErrorRecord | None = None


_DONE: Final = Judgement("done")


def judge(outcome: Outcome, config: StepConfig, now: int) -> Judgement:
    """The step's configuration applied to how an attempt ended."""
    if outcome.error is None:
        return _DONE
    if not outcome.retryable or outcome.attempt > config.limit:
        return Judgement("failed", None, outcome.error)
    base = None
    if config.dynamic:
        try:
            base = milliseconds(outcome.delay, what="the delay of a retry")
        except InvalidDuration as refusal:
            words = f"{refusal}; the attempt had ended with {outcome.error.name}: {outcome.error.message:.500}"
            return Judgement("failed", None, ErrorRecord(NonRetryableDelayError.__name__, words))
    delay = retry_delay(config, outcome.attempt, base)
    return Judgement("failed" if delay is None else "retrying", None if delay is None else now + delay, outcome.error)


def postponement(times: int) -> int:
    """Milliseconds to wait after the host was unable to run an instance so many times in a row."""
    return min(100 << min(times - 1, 20), 300_000)


def restart_delay(losses: int) -> int | None:
    """Milliseconds to wait after this many losses in a row; None when there were too many."""
    if losses >= MAX_LOSSES:
        return None
    return 0 if losses <= 1 else min(100 << (losses - 1), 30_000)
