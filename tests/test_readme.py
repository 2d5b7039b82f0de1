"""The README's example, pasted into files and run as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize(
    ("tenant", "host"),
    [
        ("tenant.py", "host.py"),
        ("tenant.py", "parts.py"),
        ("tenant.py", "cores.py"),
        ("trip.py", "agency.py"),
        ("shop.py", "market.py"),
        ("gallery.py", "mall.py"),
        ("counter/src/entry.py", "counters.py"),
    ],
    ids=["complete", "parts", "shards", "workflows", "capabilities", "bindings", "objects"],
)
def test_an_example_prints_what_the_readme_says(tmp_path: Path, tenant: str, host: str) -> None:
    """Both sides work when they are pasted, and print what stands under them."""
    text = README.read_text()
    files = dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL))
    for name in (tenant, host):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(files[name])
    promised = re.search(rf"[Rr]un `python {host}`:\n\n```\n(.*?)```", text, re.DOTALL)
    assert promised is not None
    result = subprocess.run([sys.executable, host], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert result.stderr == ""
    assert result.stdout == promised[1]


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    """In a plain pytest, as it is pasted."""
    found = re.search(r"<!-- example: (test_\S+) -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / found[1]).write_text(found[2])
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, found[1]]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert "2 passed" in result.stdout, result.stdout + result.stderr


def test_every_name_of_the_readme_exists() -> None:
    """The tables name nothing that cannot be imported."""
    from cloister import engine, loader
    from cloister.loader import bindings

    text = README.read_text()
    tables = (
        (loader, "in `cloister.loader`"),
        (engine, "in `cloister.engine`"),
        (bindings, "Those in `cloister.loader.bindings`"),
    )
    for package, heading in tables:
        table = next(part for part in text.split(heading)[1].split("\n\n") if "|---|" in part)
        first_column = "".join(line.split("|")[1] for line in table.splitlines()[2:])
        for name in re.findall(r"`([A-Za-z_]+)", first_column):
            assert name in package.__all__, name
