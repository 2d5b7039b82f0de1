"""The command line over a database: what an operator sees, and exit codes that say how it went."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.loader import cli


class Echo(WorkflowEntrypoint):
    """Returns its params."""

    async def run(self, event: Any, step: Any) -> Any:
        """The workflow."""
        return await step.do("echo", lambda: event.payload)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Run it; the exit code."""
    monkeypatch.setattr(sys, "argv", ["cloister", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


async def test_an_operator_looks_after_a_database(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a live engine all but vacuum, which says who has it; afterwards that as well."""
    async with Engine(path) as engine:
        await (await engine.workflow("w", Echo).create(id="x", scope="t", params={"a": 1})).result()
        assert command(monkeypatch, "db", "info", path, "--json") == 0
        assert json.loads(capsys.readouterr().out)["workflows"] == {"w": {"complete": 1}}
        assert command(monkeypatch, "db", "info", path) == 0
        assert "complete" in capsys.readouterr().out
        assert command(monkeypatch, "db", "export", path, "w", "x", "--scope", "t") == 0
        exported = json.loads(capsys.readouterr().out)
        assert (exported["output"], exported["steps"][0]["value"]) == ({"a": 1}, {"a": 1})
        assert command(monkeypatch, "db", "backup", path, path.with_name("copy.db")) == 0
        assert command(monkeypatch, "db", "vacuum", path) == 1
        assert "in use by the engine of process" in capsys.readouterr().err
    assert command(monkeypatch, "db", "vacuum", path) == 0
    assert command(monkeypatch, "db", "info", path.with_name("copy.db")) == 0


async def test_what_cannot_be_done_is_said_in_a_line_with_an_exit_code(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and no file that was not there before."""
    path.write_text("no database, but long enough to be taken for one " * 100)  # noqa: ASYNC240
    attempts = (["info", path], ["vacuum", path], ["backup", path, path.with_name("b.db")], ["export", path, "w", "x"])
    for words in attempts:
        assert command(monkeypatch, "db", *words) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"cloister db {words[0]}: ")
        assert "Traceback" not in error
    assert command(monkeypatch, "db", "info", path.with_name("none.db")) == 1
    assert [entry.name for entry in sorted(path.parent.iterdir()) if not entry.name.endswith(".lock")] == ["app.db"]
