"""Exceptions between a shard and its front: ours come back as what they were, and of no other is anything built."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cloister.engine import EngineError, InstanceFailed, InstanceNotFound
from cloister.engine.errors import CreationRateExceeded, RunPostponed, StepFailed, WaitTimeout
from cloister.ipc import CodecError, IpcError, RemoteError, failures, values
from cloister.loader import LoaderError, TenantError
from cloister.loader.errors import LoadBackedOff, MissingDispatcherMetadataError, RestartBackedOff, TenantThrottled
from cloister.loader.http.headers import Malformed
from cloister.loader.shards.told import tell, trace, untold, untraced
from cloister.sandbox import LimitExceeded, SandboxError

MADE: list[Exception] = [
    InstanceFailed("ValueError", "no", "a trace"),
    StepFailed("KeyError", "'a'"),
    CreationRateExceeded("too fast", retry_after_ms=1500),
    RunPostponed("not now", at_once=True),
    WaitTimeout(250),
    CodecError("it cannot be sent", "part"),
    RemoteError("Boom", "here", "a trace"),
    TenantError("Boom", "", "lines"),
    LoadBackedOff("t", 3, 1.25, LookupError("gone")),
    RestartBackedOff("t", 5, 2.5, LimitExceeded("too much")),
    TenantThrottled("t", "calls", 3, 0.5, "makes too many calls"),
    MissingDispatcherMetadataError(),
    Malformed("no URL"),
]


def passed(error: BaseException) -> Exception:
    """The same, after it was sent."""
    return untold(values.loads(values.dumps(tell(error)), trusted=True))


def same(one: BaseException, other: BaseException) -> bool:
    """All that somebody could look at, and of its causes as well."""
    seen = [(type(each), each.args, str(each), vars(each)) for each in (one, other)]
    causes = one.__cause__, other.__cause__
    return seen[0] == seen[1] and (causes == (None, None) or (None not in causes and same(*causes)))  # type: ignore[arg-type]


def ours() -> Iterator[type[Exception]]:
    """Every class of the packages' errors."""
    below: list[type[Exception]] = [EngineError, LoaderError, SandboxError, IpcError]
    for kind in below:
        if kind.__module__.startswith("cloister."):
            below += [each for each in kind.__subclasses__() if each not in below]
            yield kind


def test_each_of_our_classes_comes_back_as_itself() -> None:
    """With its arguments, words, notes and cause, however it is made."""
    kinds = list(ours())
    assert len(kinds) > 60
    for kind in kinds:
        error = kind.__new__(kind)
        error.args = ("some words",)
        vars(error).update(name="n", message="some words", trace="", retry_after_s=2.5, tenant_id="t", milliseconds=3)
        error.add_note("a note")
        error.__cause__ = InstanceNotFound("further down")
        assert same(passed(error), error), kind


def test_a_failure_of_ours_keeps_its_class() -> None:
    """And its words; and what a tenant's own class is called makes no other of it."""
    for kind in ours():
        error = kind("Boom", "no", "a trace\nof two lines") if issubclass(kind, RemoteError) else kind.__new__(kind)
        error.args = error.args or ("no",)
        found = failures.read(failures.tell(error, trace), untraced)
        assert (type(found), str(found)) == (kind, str(error))
        assert not isinstance(found, RemoteError) or found.trace == "a trace\nof two lines"
    named = TenantError("SandboxDied", "no", "x\ncloister.sandbox.errors SandboxDied")
    found = failures.read(failures.tell(named, trace), untraced)
    assert (type(found), found.args) == (TenantError, ("SandboxDied: no",))
    for other in (type("Own", (Exception,), {})("a"), asyncio.CancelledError("a"), ExceptionGroup("a", [OSError()])):
        found = failures.read(failures.tell(other, trace), untraced)
        assert isinstance(found, RemoteError)
        assert (found.name, found.trace) == (type(other).__name__, "")
    for odd in ("", " ", "builtins eval", "os system", "cloister.loader.errors  TenantError", "a\nb"):
        assert type(untraced("A", "b", odd)) is RemoteError


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_what_a_class_keeps_beside_its_words_comes_along(error: Exception) -> None:
    """As whoever catches it goes by it."""
    assert same(passed(error), error)
    assert type(passed(error)) is type(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3, [1, {"a": None}]),
        KeyError("missing"),
        TimeoutError("the instance had not ended"),
        FileNotFoundError(2, "No such file", "/nowhere"),
        ModuleNotFoundError("No module named 'nowhere'", name="nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopAsyncIteration(3),
        Exception(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_built_in_ones_come_back_as_themselves(error: Exception) -> None:
    """Those that keep more than their arguments too."""
    found = passed(error)
    assert same(found, error)
    assert repr(found) == repr(error)


def test_a_chain_of_causes_is_told_as_far_as_anybody_reads() -> None:
    """Even one that leads back to itself."""
    first, second = ValueError("first"), LookupError("second")
    first.__cause__, second.__cause__ = second, first
    found, words = passed(first), []
    cause: BaseException | None = found
    while cause is not None:
        words.append(str(cause))
        cause = cause.__cause__
    assert words == ["first", "second", "first", "second", "first"]


def test_a_class_of_the_services_own_is_a_remote_error() -> None:
    """It has a name, words, notes and its traceback; what it keeps beside them stays where it is."""

    class Boom(InstanceNotFound):
        pass

    try:
        raise Boom("it broke")
    except Boom as error:
        error.add_note("here")
        error.secret = 3  # type: ignore[attr-defined]
        found = passed(error)
    assert type(found) is RemoteError
    assert (found.name, found.message, found.__notes__) == ("Boom", "it broke", ["here"])
    assert "test_told.py" in found.trace
    assert not hasattr(found, "secret")


def test_arguments_that_cannot_be_sent_are_told_as_text() -> None:
    """And what it keeps of that kind is not."""
    error = InstanceNotFound("x")
    error.args, error.held = (object, "x"), object()  # type: ignore[attr-defined]
    found = passed(error)
    assert type(found) is InstanceNotFound
    assert found.args == (str(object), "x")
    assert not hasattr(found, "held")


def test_one_that_cannot_say_what_it_is_is_told_all_the_same() -> None:
    """Somebody waits for it."""

    class Mute:
        def __str__(self) -> str:
            raise LookupError("no words")

    found = passed(ValueError(Mute()))
    assert type(found) is ValueError
    assert found.args == ("its message cannot be read: LookupError",)
    assert str(passed(ValueError("half \ud800"))) == "half ?"
    odd = LookupError("x")
    vars(odd)["half \ud800"] = 1
    assert same(passed(odd), LookupError("x"))


def test_a_group_is_told_as_its_words() -> None:
    """It cannot be made of text."""
    found = passed(ExceptionGroup("both", [ValueError("a"), KeyError("b")]))
    assert isinstance(found, RemoteError)
    assert found.name == "ExceptionGroup"
    assert "both" in found.message


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("antigravity", "Anything"), ("builtins", "eval"), ("builtins", "SystemExit"), ("builtins", "object"),
        ("os", "system"), ("cloister.loader.errors", "LoaderError.__init__"), ("cloister.loader.host", "Host"),
        ("subprocess", "CalledProcessError"), ("", ""),
    ],
)  # fmt: skip
def test_nothing_is_imported_or_called_because_a_name_was_sent(
    module: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the name is, it is the name of a `RemoteError`."""
    before = set(sys.modules)
    found: Any = untold([module, name, "words", ["echo called"], {}, "", None])
    assert type(found) is RemoteError
    assert found.message == "words"
    assert set(sys.modules) == before
    assert capfd.readouterr() == ("", "")


def test_what_ends_a_task_is_never_made() -> None:
    """It would end another one."""
    assert type(passed(asyncio.CancelledError())) is RemoteError
    assert type(passed(KeyboardInterrupt())) is RemoteError
