"""Instances that are created in one transaction with the host's own writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceAlreadyExists,
    InstanceNotFound,
    StorageError,
    Transaction,
    Workflow,
    WorkflowEntrypoint,
)
from cloister.engine.store.store import Store

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
TABLE = "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, instance TEXT)"


class Echo(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> Any:
        return event.payload


def order(workflow: Workflow, name: str) -> Callable[[Transaction], str]:
    def write(transaction: Transaction) -> str:
        transaction.execute(TABLE)
        transaction.execute("INSERT INTO orders VALUES (?, ?)", (name, name))
        return transaction.create(workflow, id=name, params={"order": name}, scope="shop", labels={"kind": "order"})

    return write


async def orders(engine: Engine) -> list[str]:
    return await engine.transact(lambda transaction: [row[0] for row in transaction.execute("SELECT id FROM orders")])


async def test_the_hosts_write_and_the_instance_are_stored_together(open_engine: OpenEngine) -> None:
    """And the instance runs, as any other."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        assert await engine.transact(order(workflow, "o1")) == "o1"
        assert await (await workflow.get("o1", scope="shop")).result() == {"order": "o1"}
        assert await orders(engine) == ["o1"]
        assert [found.id for found in (await workflow.list(labels={"kind": "order"})).instances] == ["o1"]


async def test_what_raises_has_stored_nothing_and_harms_no_neighbour(open_engine: OpenEngine) -> None:
    """Neither the row nor the instance; whatever is raised is raised to the caller, and others in the commit are not
    disturbed.
    """
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await engine.transact(order(workflow, "o1"))

        def failing(transaction: Transaction) -> None:
            order(workflow, "o2")(transaction)
            raise LookupError("no such customer")

        results = await asyncio.gather(
            engine.transact(failing),
            workflow.create(id="neighbour"),
            engine.transact(order(workflow, "o1")),
            engine.transact(order(workflow, "o3")),
            return_exceptions=True,
        )
        assert isinstance(results[0], LookupError)
        assert isinstance(results[2], sqlite3.IntegrityError)
        assert results[3] == "o3"
        assert await orders(engine) == ["o1", "o3"]
        await workflow.get("neighbour")
        with pytest.raises(InstanceNotFound):
            await workflow.get("o2", scope="shop")


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, GeneratorExit])
async def test_what_would_end_a_thread_does_not_end_the_engines(
    open_engine: OpenEngine, error: type[BaseException]
) -> None:
    """It goes to whoever called, and nowhere else."""

    def failing(transaction: Transaction) -> None:
        raise error

    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        call = engine.transact(failing)
        with pytest.raises(error):
            await call
        assert await (await workflow.create()).result() == {}


async def test_what_is_taken_back_takes_no_numbers_back(open_engine: OpenEngine, path: Path) -> None:
    """Not even if it was the first of this host to take any: the next host must not give them anew."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)

        def failing(transaction: Transaction) -> None:
            transaction.create(workflow, id="o1")
            raise LookupError("no such customer")

        with pytest.raises(LookupError):
            await engine.transact(failing)
        await workflow.create(id="o2")
    with contextlib.closing(sqlite3.connect(path)) as database:
        [(reserved,)] = database.execute("SELECT value FROM counter")
        [(given,)] = database.execute("SELECT max(number) FROM instances")
        assert given <= reserved


async def test_an_id_that_exists_is_refused_in_the_transaction(open_engine: OpenEngine) -> None:
    """The function may mend it and go on; if it does not, its own row is not stored either."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await workflow.create(id="o1", scope="shop")
        with pytest.raises(InstanceAlreadyExists):
            await engine.transact(order(workflow, "o1"))

        def mending(transaction: Transaction) -> str:
            try:
                return transaction.create(workflow, id="o1", scope="shop")
            except InstanceAlreadyExists:
                return transaction.create(workflow, id="o1-again", scope="shop")

        assert await engine.transact(mending) == "o1-again"
        await engine.transact(lambda transaction: transaction.execute(TABLE))
        assert await orders(engine) == []


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT x", "RELEASE own", "ROLLBACK TO own", "PRAGMA synchronous = OFF",
        "PRAGMA user_version = 99", "ATTACH ':memory:' AS x", "DELETE FROM instances", "DROP TABLE steps",
        "UPDATE counter SET value = 0", "INSERT INTO graves VALUES (1)", "ALTER TABLE steps RENAME TO gone",
        "CREATE TRIGGER t AFTER INSERT ON instances BEGIN SELECT 1; END", "DROP INDEX instances_ready",
        "CREATE INDEX i ON steps (name)", "UPDATE sqlite_sequence SET seq = 0", "VACUUM",
        "REPLACE INTO workflows VALUES (1, 'x', 0, 0)", "SELECT 1; SELECT 2",
    ],
)  # fmt: skip
async def test_a_transaction_keeps_its_hands_off_the_engine(open_engine: OpenEngine, statement: str) -> None:
    """Off its tables, and off beginnings and ends of transactions."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await (await workflow.create(id="x", params=1)).result()
        with pytest.raises(sqlite3.Error):
            await engine.transact(lambda transaction: transaction.execute(statement))
        assert (await (await workflow.get("x")).status())["output"] == 1
        await workflow.create(id="y")
        assert await (await workflow.get("y")).result() == {}


async def test_a_transaction_is_of_no_use_afterwards(open_engine: OpenEngine) -> None:
    """Whoever has kept it is told; and a coroutine function is refused."""
    kept: list[Transaction] = []
    async with open_engine() as engine:
        await engine.transact(kept.append)
        with pytest.raises(RuntimeError, match="ended"):
            kept[0].execute("SELECT 1")

        async def write(transaction: Transaction) -> None: ...

        with pytest.raises(TypeError, match="coroutine"):
            await engine.transact(write)  # type: ignore[unused-coroutine]


async def test_a_commit_that_fails_stores_neither(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was stored although nobody was told runs all the same."""
    real = Store.commit
    faults: list[bool] = []

    def commit(store: Store) -> None:
        if faults:
            if faults.pop():
                real(store)
            raise OSError("nobody knows")
        real(store)

    monkeypatch.setattr(Store, "commit", commit)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await clock.run_until_idle()
        for name, stored in (("lost", False), ("kept", True)):
            faults.append(stored)
            with pytest.raises(StorageError):
                await engine.transact(order(workflow, name))
            await clock.advance(5)
        assert await orders(engine) == ["kept"]
        assert await (await workflow.get("kept", scope="shop")).result() == {"order": "kept"}


async def test_the_tables_of_the_host_are_left_alone(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Also when they look like the engine's: a column named `instance` is no reason to sweep a row away."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await engine.transact(order(workflow, "o1"))
        await engine.transact(lambda t: t.execute("UPDATE orders SET instance = (SELECT min(number) FROM instances)"))
        instance = await workflow.get("o1", scope="shop")
        await instance.restart()
        await instance.delete()
        await clock.advance(1)
        assert await orders(engine) == ["o1"]
    async with open_engine() as engine:
        assert await orders(engine) == ["o1"]


async def test_in_a_step_a_transaction_creates_the_same_instances_each_time(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The step is tried again, and what it creates without naming it is there once."""

    class Parent(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> list[str]:
            made: list[str] = []

            async def body(ctx: Any) -> list[str]:
                engine, child = self.env
                made.append(await engine.transact(lambda transaction: transaction.create(child)))
                if ctx.attempt == 1:
                    raise ConnectionError("after it was stored")
                return made

            return list(await step.do("make", {"retries": {"limit": 1, "delay": 0}}, body))

    async with open_engine() as engine:
        child = engine.workflow("child", Echo)
        first, second = await (await engine.workflow("parent", Parent, env=(engine, child)).create()).result()
        assert first == second
        assert len((await child.list()).instances) == 1


async def host(path: str) -> None:
    """Orders as fast as it can, telling of each once it is acknowledged."""
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Echo)
        for number in range(100_000):
            name = await engine.transact(order(workflow, f"o{number}"))
            os.write(1, f"{name}\n".encode())


async def test_killed_at_any_instant_the_row_and_the_instance_are_both_there_or_neither(path: Path) -> None:
    """`kill -9` in the midst of it; what was told of is there."""
    with subprocess.Popen([sys.executable, __file__, path], stdout=subprocess.PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Echo)
        rows = set(await orders(engine))
        created = set()
        cursor = None
        while True:
            page = await workflow.list(limit=1000, cursor=cursor)
            created |= {summary.id for summary in page.instances}
            cursor = page.cursor
            if cursor is None:
                break
        assert rows == created
        assert {line.decode().strip() for line in told if line.endswith(b"\n")} <= rows


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1]))
