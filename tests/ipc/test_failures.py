"""What was raised, as the other side is told: whatever it is, it is bounded, printable and of a class that is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.ipc import CapabilityError, RemoteError, RemoteProtocolError, failures, values

told = st.lists(
    st.one_of(st.none(), st.text(), st.lists(st.text(), max_size=30), st.lists(st.lists(st.text()), max_size=12)),
    max_size=6,
)
plausible = st.tuples(
    st.text(),
    st.text(),
    st.text(),
    st.lists(st.text(), max_size=30),
    st.lists(st.tuples(st.text(), st.text(), st.lists(st.text())), max_size=10),
).map(lambda parts: [*parts])


@given(st.one_of(told, plausible))
def test_whatever_is_told_is_an_error_to_raise_or_a_violation(story: list[Any]) -> None:
    """None of it does something to a terminal, however it is made."""
    try:
        error: BaseException | None = failures.read(values.dumps(story), failures.rebuild)
    except RemoteProtocolError:
        return
    depth = 0
    while error is not None:
        texts = [str(error), *getattr(error, "__notes__", ())]
        assert all(char.isprintable() or char in "\n\t" for text in texts for char in text)
        assert len(texts) <= failures.MAX_CAUSES * 2 + 1
        depth, error = depth + 1, error.__cause__
    assert depth <= failures.MAX_CAUSES + 1


@given(st.text(), st.lists(st.text(), max_size=20), st.lists(st.text(), max_size=10))
def test_what_is_told_can_be_read(message: str, notes: list[str], causes: list[str]) -> None:
    """Notes and causes in their order, as many as are taken."""
    error = ValueError(message)
    for note in notes:
        error.add_note(note)
    effect: BaseException = error
    for cause in causes:
        effect.__cause__ = effect = LookupError(cause)
    found: BaseException | None = failures.read(failures.tell(error, lambda _: "trace"), failures.rebuild)
    assert isinstance(found, RemoteError)
    assert (found.name, found.trace) == ("ValueError", "trace")
    assert len(getattr(found, "__notes__", ())) == min(len(notes), 16)
    for cause in causes[: failures.MAX_CAUSES]:
        found = found.__cause__
        assert isinstance(found, RemoteError)
        assert found.message == failures.printable(cause)
    assert found.__cause__ is None


def test_a_name_that_was_sent_imports_and_builds_nothing() -> None:
    """A class of the protocol's is known by its name; every other, be it Python's own, is a `RemoteError` to a host."""
    for name in ("SystemExit", "os.system", "KeyboardInterrupt", "cloister.ipc.Peer", "ValueError"):
        error = failures.read(values.dumps([name, "x", ""]), failures.rebuild)
        assert type(error) is RemoteError
    assert type(failures.read(values.dumps(["CapabilityError", "x", ""]), failures.rebuild)) is CapabilityError


def test_a_host_tells_no_causes() -> None:
    """Nor tracebacks: its notes are its own words."""
    error = ValueError("no")
    error.add_note("later")
    error.__cause__ = OSError("password=hunter2")
    told = failures.tell(error)
    assert b"hunter2" not in told
    found = failures.read(told, failures.rebuild)
    assert (found.__notes__, found.__cause__) == (["later"], None)


@pytest.mark.parametrize("odd", [None, 5, "text", [1, None, b"x"], ["fine", 3]])
def test_notes_that_are_none_are_left_out(odd: object) -> None:
    """Whoever raises may have put anything there."""
    error = ValueError("x")
    error.__notes__ = odd  # type: ignore[assignment]
    found = failures.read(failures.tell(error), failures.rebuild)
    assert getattr(found, "__notes__", []) == (["fine"] if odd == ["fine", 3] else [])


@pytest.mark.parametrize("name", ["__class__", "__notes__", "__cause__", "__traceback__"])
@pytest.mark.parametrize("second", [ZeroDivisionError(), SystemExit(), KeyboardInterrupt()])
def test_what_cannot_be_told_is_told_as_that(name: str, second: BaseException) -> None:
    """Somebody waits for it."""

    def raises(_: object) -> None:
        raise second

    made = type("Odd", (Exception,), {name: property(raises)})("words")
    told = failures.read(failures.tell(made, lambda error: str(error.__traceback__)), failures.rebuild)
    assert isinstance(told, RemoteError)
    assert told.name == "Odd"
    assert "cannot be told" in told.message + told.trace


def test_what_ends_a_host_is_no_answer() -> None:
    """A host has no tenant's exceptions, which could raise it to be left alone."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failures.tell(Odd())


def test_a_failure_is_read_no_further_than_somebody_would_read_it() -> None:
    """Neither more elements than one can have, nor more text than one would look at, nor a code for each character."""
    with pytest.raises(RemoteProtocolError, match="elements"):
        failures.read(values.dumps(["Error", "", "", [""] * 60_000, []]), failures.rebuild)
    wide = "".join(map(chr, range(0xF0000, 0xF0000 + failures.MAX_TEXT)))
    error: BaseException | None = failures.read(
        values.dumps(["Error", wide, "", [wide] * 16, [["Error", wide, [wide] * 16]] * 8]), failures.rebuild
    )
    shown = 0
    while error is not None:
        shown += sum(map(len, getattr(error, "__notes__", ()))) + len(str(error))
        error = error.__cause__
    assert shown <= failures.MAX_TOLD + failures.MAX_TEXT + 200
    assert failures.printable(wide) == "\ufffd" * len(wide)
    assert failures.printable("a\x1b[2Jé\n") == "a\\x1b[2Jé\n"
