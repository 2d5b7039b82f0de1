"""A host that is killed at any moment takes all of its processes with it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("hosts", [12, pytest.param(60, marks=pytest.mark.long)])
def test_a_host_that_is_killed_while_it_opens_leaves_nothing_running(hosts: int) -> None:
    """Neither the zygote that was being started nor the children that it was being asked for."""
    seed = random.randrange(2**32)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("orphans.py")), str(hosts), str(seed)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), f"seed {seed}"
