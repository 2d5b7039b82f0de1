"""What the benchmarks stand on, where it differs from machine to machine. They themselves are no tests."""

from __future__ import annotations

import importlib
import os
import sqlite3
from contextlib import closing
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


def test_shards_of_a_million_have_each_tenant_of_a_group_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever is in none would be lost without anybody noticing."""
    monkeypatch.syspath_prepend(str(FOLDER))
    kind = importlib.import_module("fleet.site").Site
    site = kind(
        folder=str(tmp_path), began=0, tenants=1_000, storm=50, killed=20, ending=40, running=10, running_tenants=4,
        idle_seconds=1, traffic_seconds=1, own_first_step=False, shards=3,
    )  # fmt: skip
    for group, size in (("storm", 50), ("killed", 20), ("ending", 40)):
        divided = [number for part in site.parts for number in part.members(group)]
        assert sorted(divided) == sorted(site.members(group))
        assert len(set(divided)) == size
        assert {site.group(number) for number in divided} == {group}


def test_a_million_go_on_from_the_first_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However far another shard had come by then."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("fleet.register")
    site = importlib.import_module("fleet.site").Site(
        folder=str(tmp_path), began=0, tenants=5_500, storm=0, killed=0, ending=0, running=10, running_tenants=4,
        idle_seconds=1, traffic_seconds=1, own_first_step=False, shards=2,
    )  # fmt: skip
    assert module._unfinished(site) == 0
    site.folder_of_shards.mkdir()
    for come, begins in (((5_000, 1_000), 1_000), ((5_000, 5_000), 5_000), ((900, 4_000), 0), ((5_500, 5_500), 5_500)):
        for part, until in zip(site.parts, come, strict=True):
            part.path.unlink(missing_ok=True)
            with closing(sqlite3.connect(part.path)) as base:
                base.execute("CREATE TABLE instances (number INTEGER)")
                base.executemany("INSERT INTO instances VALUES (?)", [(n,) for n in range(until) if part.has(n)])
                base.commit()
        assert module._unfinished(site) == begins


def test_what_shards_have_found_becomes_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are added, the last one says when all are done, and a mean is that of all."""
    monkeypatch.syspath_prepend(str(FOLDER))
    merged = importlib.import_module("fleet.merged").merged
    ones = {"woken": 30, "due": 30, "seconds": 2.0, "per_second": 15.0, "cpu_ms_each": 8.0, "boots": 30, "early": 0,
            "late_first_1000_p99_s": None, "late_s": [1.0] * 101, "boots_course": [(0.1, 10), (0.3, 30)]}  # fmt: skip
    others = {**ones, "woken": 10, "due": 10, "seconds": 4.0, "cpu_ms_each": 4.0, "boots": 10, "early": 1,
              "late_first_1000_p99_s": 3.0, "late_s": [3.0] * 101, "boots_course": [(0.2, 10)]}  # fmt: skip
    found = merged([ones, others])
    assert (found["woken"], found["early"], found["seconds"], found["late_first_1000_p99_s"]) == (40, 1, 4.0, 3.0)
    assert found["per_second"] == 10.0
    assert found["cpu_ms_each"] == 7.0
    assert (found["late_s"][0], found["late_s"][100]) == (1.0, 3.0)
    assert found["boots_course"] == [(0.1, 10), (0.2, 20), (0.3, 40)]
    assert merged([ones]) is ones
