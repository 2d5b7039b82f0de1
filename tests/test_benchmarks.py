"""What the benchmarks stand on, where it differs from machine to machine. They themselves are no tests."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_who_may_not_weigh_sandboxes_is_told_so_and_sees_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows an ordinary user nothing of a process that is not dumpable: those figures are left out."""
    monkeypatch.syspath_prepend(str(FOLDER))
    boot, weigh = importlib.import_module("boot"), importlib.import_module("weigh")

    def refuse(_: str) -> dict[str, int]:
        raise PermissionError

    class Loader:
        """Has a tenant."""

        def warm(self, _: object) -> object:
            """This process stands for it."""
            return type("Worker", (), {"sandbox": type("Sandbox", (), {"pid": os.getpid()})})

    monkeypatch.setattr(weigh, "_fields", refuse)
    monkeypatch.setattr(boot, "_numbers", iter([1]))
    assert boot.weigh_tenants(Loader()).startswith("memory of a warm tenant: only root may weigh sandboxes")
