"""Whether anybody has computed, by a counter that is turned by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox.lockdown.cgroups import cpu_counter
from cloister.sandbox.stir import LITTLE, Stir


class Counters:
    """Seconds of CPU: of everybody together, and of this process among them."""

    everybody = own = 100.0
    fails = False

    def __init__(self) -> None:
        self.stir = Stir(self.read, lambda: self.own)

    def read(self) -> float:
        if self.fails:
            raise FileNotFoundError
        return self.everybody

    def compute(self, seconds: float) -> None:
        """This process does."""
        self.own += seconds
        self.everybody += seconds


def test_while_all_rest_nothing_stirs_whatever_the_host_does() -> None:
    """Only the first time it is not known."""
    counters = Counters()
    assert counters.stir.any()
    for _ in range(10):
        counters.compute(5)
        assert not counters.stir.any()


def test_little_by_little_adds_up() -> None:
    """And is told of once."""
    counters = Counters()
    counters.stir.any()
    found = []
    for _ in range(6):
        counters.everybody += LITTLE * 0.4
        found.append(counters.stir.any())
    assert found == [False, False, True, False, False, True]


def test_a_number_that_counts_something_else_is_not_believed() -> None:
    """It stands still while the host computes: so it may while others do."""
    counters = Counters()
    counters.stir.any()
    counters.own += 0.01
    assert counters.stir.any()
    counters.own += 0.0001
    assert not counters.stir.any(), "they are not read at the same moment"


def test_where_nobody_counts_everybody_may_have_computed() -> None:
    """Each time."""
    counters = Counters()
    counters.stir.any()
    counters.fails = True
    assert counters.stir.any()
    assert counters.stir.any()


async def test_the_kernels_counter_has_the_sandboxes_and_the_host(tenant: Any, until: Callable[..., Any]) -> None:
    """Whoever of them computes, it grows as much; where there is one."""
    counter = cpu_counter()
    try:
        before = counter()
    except OSError:
        pytest.skip("nobody counts the CPU time of this process's group here")
    used = tenant.sandbox.cpu_seconds()
    await tenant.do("def main():\n    import time\n    while time.process_time() < 0.3: pass")
    assert counter() - before >= tenant.sandbox.cpu_seconds() - used > 0
    before, own = counter(), time.process_time()
    while time.process_time() < own + 0.05:
        pass
    assert counter() - before >= 0.049
