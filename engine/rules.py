"""What is allowed in: names, ids, sizes and step configurations, each refused with an error that names the
fault.

Input may come from a hostile process, so types are checked before anything else is asked of a value.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping

from cloister.ipc import values

from .durations import milliseconds
from .errors import (
    InvalidDuration,
    InvalidInstanceId,
    InvalidStepConfig,
    InvalidStepName,
    JournalBreach,
    PayloadTooLarge,
    StepLimitExceeded,
)
from .records import Encoded, ErrorRecord, Key, Outcome, StepConfig, StepKind

MAX_PAYLOAD = 1024 * 1024
MAX_STEPS = 10_000
MOST_STEPS = 25_000
"""What a workflow may allow instead."""
MAX_RETRIES = 10_000
MAX_CHUNK = 256 * 1024
"""Bytes in a piece of a result that is a stream."""
MAX_STATE = 1024 * 1024 * 1024
"""Bytes that the results of one instance may take together."""
MAX_EVENTS = 10_000
"""Events that an instance may have which nobody has waited for yet."""
MAX_DETAILS = 16 * 1024
"""Bytes that a heartbeat may say."""
BRIEF = 256
"""Characters of a message that is told in short."""
MAX_CODE = 64 * 1024 * 1024
DYNAMIC = "dynamic"
"""Stands for a delay that a function says, where the function itself cannot be sent."""
DELAY_SECONDS = 5.0
"""How long such a function may take."""

_HEARTBEAT = ("heartbeat_timeout", "heartbeatTimeout")
_ID = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_-]{0,99}")
_ID_OF_A_FIRING = re.compile(r"[a-zA-Z0-9_*/,#+ -]{1,300} [0-9]{1,16}")
_MARK = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,300}")
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,256}")

_KINDS: dict[object, StepKind] = {"do": "do", "sleep": "sleep", "wait": "wait"}
_KINDS |= {"waitForEvent": "wait", "wait_for_event": "wait"}


def check_id(value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        shown = f"{value!r:.120}"
        raise InvalidInstanceId(
            f"{shown} is no instance id: 1 to 100 of a-z, A-Z, 0-9, `_` and `-`, not beginning with `-`"
        )
    return value


def check_known_id(value: object) -> str:
    """An id to find an instance by: that of a schedule's firing is the schedule, which has more letters, and a time."""
    if isinstance(value, str) and _ID_OF_A_FIRING.fullmatch(value):
        return value
    return check_id(value)


def check_workflow_name(value: object) -> str:
    if not isinstance(value, str) or len(value) > 64 or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no name for a workflow: as an instance id, but at most 64 characters")
    return value


def is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check_name(value: object, *, what: str = "step name") -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise InvalidStepName(f"{what} {value!r:.80} is not text of at most 256 characters without control characters")
    return value


def check_seconds(value: object, what: str) -> float:
    """A number from 0, be it infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{what} is a number of seconds from 0, not {value!r:.40}")
    return value


def check_timeout(value: object) -> float | None:
    """Seconds that somebody waits at most, or None. One that is over already is none."""
    if value is None:
        return None
    return check_seconds(0.0 if isinstance(value, int | float) and value < 0 else value, "a timeout")


def check_count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise JournalBreach(f"a step's count is a whole number from 1, not {value!r:.40}")
    if value > MOST_STEPS:
        raise StepLimitExceeded(f"a run may have {MOST_STEPS:,} steps of a kind at most; this would be one more")
    return value


def check_size(data: object, what: str, around: int = 0) -> bytes:
    """The data, if it is no larger than may be, but for what is around it."""
    if not isinstance(data, bytes):
        raise JournalBreach(f"{what} is not bytes but {type(data).__name__}")
    if (size := len(data) - around) > MAX_PAYLOAD:
        raise PayloadTooLarge(f"{what} takes {size:,} bytes; at most {MAX_PAYLOAD:,} are stored")
    return data


def encode(value: object, what: str) -> bytes:
    """The bytes to store for a value of the host's; an `Encoded` is taken as it is."""
    if isinstance(value, Encoded):
        return check_size(value.data, what, value.around)
    return check_size(values.dumps(value), what)


def check_within(mark: object) -> None:
    """What is said of the step around another one is short text; what it says is for whoever replays."""
    if mark is not None and (not isinstance(mark, str) or not _MARK.fullmatch(mark)):
        raise JournalBreach("what is said of the enclosing step is not a short text")


def is_result(name: object, count: object, value: object, within: object) -> bool:
    """Whether this is a step's result of which `check_outcome` has nothing to say."""
    return (
        type(name) is str
        and _NAME.fullmatch(name) is not None
        and type(count) is int
        and 0 < count <= MOST_STEPS
        and type(value) is bytes
        and len(value) <= MAX_PAYLOAD
        and (within is None or (type(within) is str and _MARK.fullmatch(within) is not None))
    )


def check_outcome(outcome: object) -> Outcome:
    """The outcome as given, if it could be one; whether it fits the step's history is not asked here."""
    if not isinstance(outcome, Outcome):
        raise JournalBreach(f"an outcome was expected, not {type(outcome).__name__}")
    check_name(outcome.name)
    check_count(outcome.count)
    if outcome.kind not in ("do", "undo"):
        raise JournalBreach(f"{outcome.kind!r:.40} is nothing that is attempted")
    if [outcome.value, outcome.size, outcome.error].count(None) != 2:
        raise JournalBreach(f"the outcome of step {outcome.name!r} needs either a value, a size or an error")
    if outcome.size is not None:
        if type(outcome.size) is not int or outcome.kind != "do":
            raise JournalBreach(f"the result of step {outcome.name!r} cannot be a stream of {outcome.size!r:.40} bytes")
    elif outcome.value is not None:
        check_size(outcome.value, f"the result of step {outcome.name!r}")
    elif type(outcome.error) is not ErrorRecord:
        raise JournalBreach(f"the error of step {outcome.name!r} is not an ErrorRecord")
    if type(outcome.attempt) is not int or type(outcome.retryable) is not bool:
        raise JournalBreach(f"the outcome of step {outcome.name!r} has an attempt or flag of the wrong type")
    if outcome.within is not None:
        check_within(outcome.within)
    if outcome.config is not None and type(outcome.config) is not StepConfig:
        raise JournalBreach(f"the configuration of step {outcome.name!r} is not a StepConfig")
    return outcome


def bounded_error(error: ErrorRecord) -> ErrorRecord:
    """The same error with texts that any database takes: no lone surrogates, no NUL, a few KiB at most."""
    return ErrorRecord(_text(error.name, 256), _text(error.message, 8_192), _text(error.trace, 16_384))


def brief(error: ErrorRecord) -> ErrorRecord:
    """The same error in a few words, for where there is no room for more."""
    return ErrorRecord(error.name, _text(error.message, BRIEF))


def describe(error: BaseException) -> ErrorRecord:
    """Name and message of an exception; one that carries both as attributes speaks for an error elsewhere."""
    name, message = getattr(error, "name", None), getattr(error, "message", None)
    if not (isinstance(name, str) and isinstance(message, str)):
        name, message = type(error).__name__, str(error)
    trace = getattr(error, "trace", None)
    if not isinstance(trace, str):
        trace = "".join(traceback.format_exception(error, limit=-8))
    return bounded_error(ErrorRecord(name, message, trace))


def _text(value: object, limit: int) -> str:
    return str(value)[:limit].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def step_config(raw: object) -> StepConfig:
    """An author's configuration, strictly read and completed with the defaults."""
    if raw is None:
        return StepConfig()
    if isinstance(raw, StepConfig):
        delay: object = DYNAMIC if raw.dynamic else raw.delay_ms
        raw = {
            "retries": {"limit": raw.limit, "delay": delay, "backoff": raw.backoff},
            "timeout": raw.timeout_ms,
            **({"sensitive": "output"} if raw.sensitive else {}),
            **({"heartbeat_timeout": raw.heartbeat_ms} if raw.heartbeat_ms is not None else {}),
        }
    found = _members(raw, "configuration", {"retries", "timeout", "sensitive", *_HEARTBEAT})
    default = StepConfig()
    timeout_ms = _duration(found["timeout"], "timeout") if "timeout" in found else default.timeout_ms
    if timeout_ms == 0:
        raise InvalidStepConfig("`timeout` must be more than nothing")
    if found.get("sensitive", "output") != "output":
        raise InvalidStepConfig('`sensitive` can only be "output"')
    sensitive, heartbeat_ms = "sensitive" in found, _heartbeat(found)
    if "retries" not in found:
        return StepConfig(timeout_ms=timeout_ms, sensitive=sensitive, heartbeat_ms=heartbeat_ms)
    retries = _members(found["retries"], "`retries`", {"limit", "delay", "backoff"})
    for key in ("limit", "delay"):
        if key not in retries:
            raise InvalidStepConfig(f"`retries.{key}` is missing; whoever gives `retries` gives both limit and delay")
    limit, backoff = retries["limit"], retries.get("backoff", default.backoff)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
        raise InvalidStepConfig(f"`retries.limit` {limit!r:.40} is not a number from 0")
    if backoff not in ("constant", "linear", "exponential"):
        raise InvalidStepConfig(f"`retries.backoff` {backoff!r:.40} is not constant, linear or exponential")
    dynamic = retries["delay"] == DYNAMIC or callable(retries["delay"])
    delay_ms = 0 if dynamic else _duration(retries["delay"], "retries.delay")
    return StepConfig(int(min(limit, MAX_RETRIES)), delay_ms, backoff, timeout_ms, dynamic, sensitive, heartbeat_ms)


def _heartbeat(found: dict[str, object]) -> int | None:
    given = [key for key in _HEARTBEAT if key in found]
    if len(given) > 1:
        raise InvalidStepConfig(f"`{given[0]}` and `{given[1]}` are the same; give one of them")
    if not given:
        return None
    allowed = _duration(found[given[0]], given[0])
    if allowed == 0:
        raise InvalidStepConfig(f"`{given[0]}` must be more than nothing")
    return allowed


def _members(value: object, what: str, known: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidStepConfig(f"the {what} of a step is a dict, not {type(value).__name__}")
    if strange := [key for key in value if key not in known]:
        raise InvalidStepConfig(f"{strange[0]!r:.40} is no key of a step's {what}; known are {sorted(known)}")
    return value


def _duration(value: object, key: str) -> int:
    try:
        return milliseconds(value, what=f"`{key}`")
    except InvalidDuration as error:
        raise InvalidStepConfig(str(error)) from None


def step_key(step: object) -> Key:
    """A step as a caller names it: its name, or a dict of `name`, `count` (1) and `type` ("do")."""
    named = {"name": step} if isinstance(step, str) else step
    if not isinstance(named, Mapping) or not named.keys() <= {"name", "count", "type"}:
        raise TypeError("a step is named by its name, or by a dict of `name`, `count` and `type`")
    kind = _KINDS.get(named.get("type", "do"))
    if kind is None:
        raise ValueError(f"{named.get('type')!r:.40} is no type of step; there are do, sleep and wait")
    return kind, check_name(named.get("name")), check_count(named.get("count", 1))
