"""What the stories share: async tests on loops of their own, and a file to keep a database in."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

PATIENCE = 100.0
"""Seconds after which a story has failed to come to its end."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An async test runs on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await pyfuncitem.obj(**arguments)

    asyncio.run(bounded())
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"
