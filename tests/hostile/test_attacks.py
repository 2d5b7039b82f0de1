"""Every attack of the catalogue: it is refused in every mode, with the very words, and succeeds where nothing refuses.

Where a mode lacks a layer another one has to hold: what is expected is the same in nearly every case.
"""

from __future__ import annotations

from typing import Any

import pytest

Reports = dict[str, dict[str, Any]]
Catalogue = dict[str, dict[str, Any]]
ABSENT = {"ENOSYS", "EAFNOSUPPORT", "ENODEV", "ENOPKG", "EOPNOTSUPP"}
"""With what a kernel answers that does not have what is attacked."""


def test_the_catalogue_is_whole(catalogue: Catalogue) -> None:
    """Every theme is there, every attack says what it does, and none has the name of another."""
    entries = [entry for theme in catalogue.values() for entry in theme.values()]
    assert len(entries) >= 60
    assert all(len(theme) >= 5 for theme in catalogue.values())
    assert all(entry.function.__doc__ for entry in entries)
    assert len({entry.name for entry in entries}) == len(entries)


def test_the_modes_are_what_they_are_called(told: Reports, mode: str) -> None:
    """Filter, Landlock and limits are there in each; what else there is differs, or nothing would be learnt."""
    layers = told[mode]["layers"]
    for layer in ("seccomp", "landlock", "limits", "dumpable", "no_new_privs"):
        assert layers[layer] == "active"
    if mode == "user":
        assert layers["identity"] != "active"
        assert layers["processes"] == "active" or "not available" in layers["user"]
    if mode in {"bare", "container"}:
        assert "active" not in {
            layers[name] for name in ("processes", "mount", "net", "ipc", "uts", "root", "identity")
        }


def test_it_is_refused(told: Reports, mode: str, entry: Any) -> None:
    """With this errno, this signal, these words; nothing was harmed or reached, and the neighbour has not noticed."""
    outcome, harm = told[mode]["outcomes"][f"{entry.theme}/{entry.name}"]
    namespaces = told[mode]["layers"]["processes"] == "active"
    assert outcome in (entry.refusals if namespaces else entry.without_namespaces)
    assert harm == []


def test_it_succeeds_where_nothing_confines_it(told: Reports, provable: dict[str, bool], entry: Any) -> None:
    """In a plain process, so that it is the sandbox that has refused it and not a mistake in the attack."""
    outcome, _ = told["proof"]["outcomes"][f"{entry.theme}/{entry.name}"]
    if entry.proof == "itself":
        return
    if not provable[entry.proof]:
        pytest.skip(f"this user has not the right that it takes: {entry.proof}")
    if outcome in ABSENT:
        pytest.skip(f"this machine has nothing of the kind: {outcome}")
    assert outcome.startswith("done: ")
    assert outcome not in entry.refusals
