"""Where a tenant lives: the same place for ever, in a folder that has one front."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import EngineLocked
from cloister.loader import Shard
from cloister.loader.shards.place import MOST, claim, note_all_there, number_of, shards_in

# These are on disk wherever there are shards: who changes one loses tenants.
KNOWN = [
    ("t-42", {2: 1, 3: 0, 4: 3, 16: 11, 256: 91}),
    ("a", {2: 1, 3: 2, 4: 3, 16: 15, 256: 47}),
    ("Zoë", {2: 0, 3: 1, 4: 2, 16: 10, 256: 154}),
    ("租户", {2: 0, 3: 2, 4: 2, 16: 10, 256: 170}),
    ("\ud800", {2: 0, 3: 2, 4: 0, 16: 8, 256: 104}),
    ("x" * 300, {2: 1, 3: 2, 4: 1, 16: 5, 256: 21}),
]


@pytest.mark.parametrize(("tenant_id", "places"), KNOWN)
def test_a_tenants_shard_is_the_same_for_ever(tenant_id: str, places: dict[int, int]) -> None:
    """On any machine and with any Python, whatever text its id is."""
    assert {count: number_of(tenant_id, count) for count in places} == places


def test_it_is_the_same_in_another_process() -> None:
    """Whose hashes are seeded in another way."""
    program = "from cloister.loader.shards.place import number_of; print([number_of(f't{n}', 7) for n in range(40)])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str([number_of(f"t{n}", 7) for n in range(40)])


def test_tenants_are_spread_evenly() -> None:
    """So that each shard has its part of the work."""
    found = Counter(number_of(f"tenant-{number}", 8) for number in range(8000))
    assert set(found) == set(range(8))
    assert max(found.values()) < 1.2 * min(found.values())


@pytest.mark.parametrize("odd", ["", 3, None, b"t", ["t"]])
def test_an_id_is_text_that_is_not_empty(odd: Any) -> None:
    """In the words in which a host says so."""
    with pytest.raises(ValueError, match="a tenant id is text that is not empty"):
        number_of(odd, 2)


def test_a_shard_knows_its_file_and_its_tenants(tmp_path: Path) -> None:
    """Each tenant has exactly one."""
    shards = shards_in(tmp_path, 3)
    assert [shard.path.name for shard in shards] == ["0-of-3.db", "1-of-3.db", "2-of-3.db"]
    assert {shard.path.parent for shard in shards} == {tmp_path}
    for number in range(50):
        assert [shard.number for shard in shards if shard.has(f"t{number}")] == [number_of(f"t{number}", 3)]


def test_without_a_count_there_is_one_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that this process may use, and no more than there may be."""
    assert len(shards_in(tmp_path, None)) == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    assert len(shards_in(tmp_path, None)) == MOST


def test_a_folder_keeps_the_number_it_was_begun_with(tmp_path: Path) -> None:
    """Which it says itself, by any one of its files; what lies beside them says nothing."""
    (tmp_path / "3-of-5.db").touch()
    for name in ("3-of-5.db-wal", "lock", "1-of-9.db.old", "0-of-0.db", "x1-of-2.db", "1-of-07.db"):
        (tmp_path / name).touch()
    assert shards_in(tmp_path, None) == shards_in(tmp_path, 5) == [Shard(tmp_path, each, 5) for each in range(5)]


def test_another_number_is_refused_and_what_to_do_is_said(tmp_path: Path) -> None:
    """A tenant would be looked for in the wrong file."""
    (tmp_path / "0-of-2.db").touch()
    with pytest.raises(ValueError, match=r"holds databases of 2 shards, and 3 are asked for: .*leave `count` out"):
        shards_in(tmp_path, 3)
    (tmp_path / "0-of-4.db").touch()
    with pytest.raises(ValueError, match="holds databases of 2 and of 4 shards: "):
        shards_in(tmp_path, None)


def test_a_database_that_is_gone_is_missed(tmp_path: Path) -> None:
    """Once all have been there, it is not made anew: its tenants would have lost their instances without a word."""
    os.close(claim(tmp_path))
    shards = shards_in(tmp_path, 3)
    shards[0].path.touch()
    assert shards_in(tmp_path, 3) == shards, "the first opening was broken off"
    shards[1].path.touch()
    shards[2].path.touch()
    note_all_there(tmp_path)
    assert shards_in(tmp_path, None) == shards
    shards[1].path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"databases of 3 shards, and 1-of-3\.db is not there: put it back"):
        shards_in(tmp_path, None)
    (tmp_path / "elsewhere").rename(shards[1].path)
    os.close(claim(tmp_path))
    assert shards_in(tmp_path, 3) == shards
    shards[2].path.unlink()
    (tmp_path / "lock").unlink()
    assert shards_in(tmp_path, 3) == shards, "as was said to do"


def test_a_folder_whose_databases_were_all_removed_is_a_new_one(tmp_path: Path) -> None:
    """Of any number."""
    os.close(claim(tmp_path))
    (tmp_path / "0-of-3.db").touch()
    note_all_there(tmp_path)
    (tmp_path / "0-of-3.db").unlink()
    assert len(shards_in(tmp_path, 2)) == 2


@pytest.mark.parametrize("count", [0, -1, MOST + 1, 2.0, True, "2"])
def test_a_count_is_a_whole_number(tmp_path: Path, count: Any) -> None:
    """From one to what a machine could have."""
    with pytest.raises(ValueError, match="`count` is a whole number from 1 to 256"):
        shards_in(tmp_path, count)


def test_a_folder_has_one_front_which_is_said_at_once(tmp_path: Path) -> None:
    """For as long as that one holds it."""
    first = claim(tmp_path)
    with pytest.raises(EngineLocked, match="has its shards open elsewhere"):
        claim(tmp_path)
    os.close(first)
    os.close(claim(tmp_path))


def test_who_is_refused_keeps_no_descriptor(tmp_path: Path) -> None:
    """However often it tries."""
    first, before = claim(tmp_path), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(EngineLocked):
            claim(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(first)
