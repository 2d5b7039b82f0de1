"""Durations, rules and retry: functions from values to values."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
from typing import Any

import pytest

from cloister.engine import (
    Encoded,
    ErrorRecord,
    InvalidDuration,
    InvalidInstanceId,
    InvalidStepConfig,
    InvalidStepName,
    JournalBreach,
    NonRetryableError,
    Outcome,
    PayloadTooLarge,
    StepConfig,
    StepFailed,
    StepLimitExceeded,
)
from cloister.engine.durations import milliseconds, moment
from cloister.engine.errors import EngineError, revive
from cloister.engine.retry import restart_delay, retry_delay
from cloister.engine.rules import (
    check_count,
    check_id,
    check_name,
    check_outcome,
    describe,
    encode,
    step_config,
)
from cloister.engine.store.columns import pack_config, unpack_config


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (1500, 1500),
        (0.2, 1),
        ("10 seconds", 10_000),
        ("1 second", 1_000),
        ("1.5 hours", 5_400_000),
        ("  2 days ", 172_800_000),
        ("1 week", 604_800_000),
        ("1 year", 365 * 86_400_000),
        (dt.timedelta(minutes=2), 120_000),
    ],
)
def test_a_duration_is_read_as_milliseconds(written: object, meant: int) -> None:
    """Numbers are milliseconds, text has a unit, and a fraction is rounded up so that nothing is early."""
    assert milliseconds(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        -1,
        math.nan,
        math.inf,
        True,
        None,
        "",
        "ten seconds",
        "1 fortnight",
        "366 days",
        "5",
        [],
        "1e3 seconds",
    ],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """Neither nonsense nor more than a year is taken for a duration."""
    with pytest.raises(InvalidDuration):
        milliseconds(written)


def test_a_moment_is_a_date_or_milliseconds_ahead() -> None:
    """An aware datetime counts in its own zone; what is too far ahead is refused, and what has passed is not."""
    when = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    at = int(when.timestamp() * 1000)
    assert moment(when, at - 5) == moment(at, at - 5) == moment(at, at + 5) == at
    for wrong in (at + 366 * 86_400_000, "2027-01-01", True, None, math.nan):
        with pytest.raises(InvalidDuration):
            moment(wrong, at - 5)


@pytest.mark.parametrize("good", ["a", "_", "0", "order-1", "A" * 100])
def test_a_proper_id_is_taken(good: str) -> None:
    """Letters, digits, underscore and hyphen, up to a hundred."""
    assert check_id(good) == good


@pytest.mark.parametrize("bad", ["", "-a", "a b", "ä", "a\n", "A" * 101, "a\0", "\ud800", None, 7, b"a", "a/b"])
def test_an_improper_id_is_refused_with_the_rule_in_words(bad: object) -> None:
    """The message says what an id looks like."""
    with pytest.raises(InvalidInstanceId, match="1 to 100"):
        check_id(bad)


def test_names_have_no_control_characters_and_a_bound() -> None:
    """Any other text is a name, the empty one and emoji included."""
    for good in ("", "collect sources", "ünï ✓ 😀", "x" * 256):
        assert check_name(good) == good
    for bad in ("x" * 257, "a\nb", "\0", "\x7f", "\ud800", 3, None):
        with pytest.raises(InvalidStepName):
            check_name(bad)


def test_counts_are_positive_and_bounded() -> None:
    """A count below one is a breach, one above the limit is too many steps."""
    for bad in (0, -1, True, "1", 1.0):
        with pytest.raises(JournalBreach):
            check_count(bad)
    with pytest.raises(StepLimitExceeded):
        check_count(25_001)


def test_what_is_encoded_is_not_encoded_again() -> None:
    """An `Encoded` is stored verbatim, and the size limit holds for it as well."""
    assert encode(Encoded(b"\xc1"), "x") == b"\xc1"
    assert encode(1, "x") == b"\x01"
    for large in (Encoded(b"x" * 1_048_577), "x" * 1_048_576):
        with pytest.raises(PayloadTooLarge, match="1,048,576"):
            encode(large, "x")


def test_an_empty_configuration_means_the_defaults() -> None:
    """Five retries, ten seconds, exponential, ten minutes."""
    assert step_config(None) == step_config({}) == StepConfig(5, 10_000, "exponential", 600_000)


def test_a_configuration_is_completed_with_the_defaults() -> None:
    """What is not said about backoff and timeout is as it always is."""
    assert step_config({"retries": {"limit": 2, "delay": "1 second"}}) == StepConfig(2, 1_000)
    assert step_config({"timeout": 5, "sensitive": "output"}) == StepConfig(timeout_ms=5, sensitive=True)
    for spelling in ("heartbeat_timeout", "heartbeatTimeout"):
        beating = step_config({spelling: "30 seconds"})
        assert beating == StepConfig(heartbeat_ms=30_000) == unpack_config(pack_config(beating))
        assert step_config(beating) == beating
    assert step_config({"retries": {"limit": math.inf, "delay": 0, "backoff": "linear"}}).limit == 10_000
    assert step_config(StepConfig(1, 2, "constant", 3)) == StepConfig(1, 2, "constant", 3)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ([], "dict"),
        ({"retry": {}}, "retry"),
        ({"retries": {"limit": 1}}, "retries.delay"),
        ({"retries": {"delay": 1}}, "retries.limit"),
        ({"retries": {"limit": -1, "delay": 1}}, "limit"),
        ({"retries": {"limit": True, "delay": 1}}, "limit"),
        ({"retries": {"limit": math.nan, "delay": 1}}, "limit"),
        ({"retries": {"limit": 1, "delay": "soon"}}, "retries.delay"),
        ({"retries": {"limit": 1, "delay": 1, "backoff": "wild"}}, "backoff"),
        ({"retries": {"limit": 1, "delay": 1, "backoff": []}}, "backoff"),
        ({"timeout": 0}, "timeout"),
        ({"sensitive": "input"}, "sensitive"),
        ({"heartbeat_timeout": 0}, "heartbeat_timeout"),
        ({"heartbeatTimeout": "soon"}, "heartbeatTimeout"),
        ({"heartbeat_timeout": 1, "heartbeatTimeout": 1}, "heartbeatTimeout"),
        ({1: 2}, "1"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_name_of_its_key(raw: object, named: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(InvalidStepConfig, match=named):
        step_config(raw)


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome("a", 1, 1),
        Outcome("a", 1, 1, value=b"", error=ErrorRecord("E", "")),
        Outcome("a", 1, 1, value="text"),  # type: ignore[arg-type]
        Outcome("a", 1, True, value=b""),
        Outcome("a", 0, 1, value=b""),
        Outcome("a", 1, 1, error="E"),  # type: ignore[arg-type]
        Outcome("a", 1, 1, value=b"", config={}),  # type: ignore[arg-type]
        Outcome("a", 1, 1, value=b"", retryable=1),  # type: ignore[arg-type]
    ],
)
def test_an_outcome_of_the_wrong_shape_is_a_breach(outcome: object) -> None:
    """Nothing a hostile process can put into an outcome gets further than this check."""
    with pytest.raises(JournalBreach):
        check_outcome(outcome)


def test_backoff_follows_its_formula_until_the_retries_are_spent() -> None:
    """Constant d, linear n x d, exponential 2^(n-1) x d; after `limit` retries there is no next attempt."""

    def delays(backoff: Any) -> list[int | None]:
        return [retry_delay(StepConfig(3, 100, backoff), attempt) for attempt in (1, 2, 3, 4)]

    assert delays("constant") == [100, 100, 100, None]
    assert delays("linear") == [100, 200, 300, None]
    assert delays("exponential") == [100, 200, 400, None]
    assert retry_delay(StepConfig(10_000, 10_000), 9_999) == 365 * 86_400_000


def test_a_lost_run_restarts_at_once_then_later_and_later_then_never() -> None:
    """0, 0.2 s, 0.4 s, ... at most 30 s, and the tenth loss in a row is the last."""
    assert [restart_delay(n) for n in range(1, 11)] == [
        0,
        200,
        400,
        800,
        1600,
        3200,
        6400,
        12_800,
        25_600,
        None,
    ]


def test_an_error_is_described_by_itself_or_by_what_it_stands_for() -> None:
    """An error that carries a name and a message speaks for one that happened elsewhere."""
    assert describe(KeyError("k")).name == "KeyError"
    assert describe(StepFailed("TheirError", "broke")).message == "broke"
    record = describe(ValueError("a\0b\ud800" + "x" * 9000))
    assert record.message.startswith("a\ufffdb?x")
    assert len(record.message) == 8_192


def test_a_recorded_error_is_raised_as_the_class_it_names_if_that_is_built_in() -> None:
    """Otherwise as `StepFailed`, which carries name and message."""
    assert isinstance(revive(ErrorRecord("ValueError", "v")), ValueError)
    assert isinstance(revive(ErrorRecord("NonRetryableError", "n")), NonRetryableError)
    missing = revive(describe(KeyError("key")))
    assert (type(missing), missing.args) == (KeyError, ("key",))
    for name in ("KeyError", "UnicodeDecodeError", "SystemExit", "print", "TheirError"):
        error = revive(ErrorRecord(name, "m"))
        assert isinstance(error, StepFailed)
        assert (error.name, error.message) == (name, "m")


def test_the_docstring_of_an_error_is_its_message() -> None:
    """Whoever sees the error reads what happened and what to do."""
    assert "another" in str(InvalidInstanceId()) or "letters" in str(InvalidInstanceId())
    assert str(EngineError("said")) == "said"


@pytest.mark.parametrize("optimized", [[], ["-OO"]])
def test_an_error_says_something_also_without_docstrings(optimized: list[str]) -> None:
    """`python -OO` drops them, and with them the default messages."""
    program = "from cloister.engine import EngineClosed; print(EngineClosed())"
    told = subprocess.run([sys.executable, *optimized, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Engine Closed" if optimized else "The engine is not open, or is closing.")
