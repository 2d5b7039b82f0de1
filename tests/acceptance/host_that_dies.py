"""A host to be killed: it creates its instances, says what was acknowledged, and stays until all have ended.

Run as a program with a folder. The ledger is a file outside of the database: what was acknowledged, and what began.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from cloister.engine import InstanceFinished
from cloister.loader import Host, InstanceAlreadyExists, RpcTarget, WorkerCode

INSTANCES = 12
TENANTS = 3
STEPS = 5
EVENTS = 3
PROGRAM = f"""
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        tokens = []
        for number in range({STEPS}):
            async def body():
                return await self.env.LEDGER.began(event.instanceId, number)
            tokens.append(await step.do(f"step {{number}}", body))
            await step.sleep("breath", 40)
        events = [(await step.wait_for_event("event", "event")).payload for _ in range({EVENTS})]
        return {{"tokens": tokens, "events": events}}
"""


class Ledger(RpcTarget):
    """Writes each line at once, so that it outlives whoever wrote it."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def began(self, instance: str, step: int) -> str:
        """A body began. The token says which of its beginnings this is."""
        token = os.urandom(8).hex()
        self.write("began", instance, step, token)
        return token

    def write(self, *entry: Any) -> None:
        """One line."""
        os.write(self._file, (json.dumps(entry) + "\n").encode())


async def main(folder: Path) -> None:
    """Create, send, wait."""
    ledger = Ledger(folder)
    code = WorkerCode(main_module="main.py", modules={"main.py": PROGRAM}, env={"LEDGER": ledger})
    async with Host(folder / "app.db", get_code=lambda _: code, spares=2) as host:
        instances = []
        for number in range(INSTANCES):
            workflows = host.workflows(f"tenant-{number % TENANTS}")
            try:
                await workflows.create(id=f"i-{number}")
                ledger.write("created", f"i-{number}")
            except InstanceAlreadyExists:
                pass
            instance = await workflows.get(f"i-{number}")
            instances.append(instance)
            with contextlib.suppress(InstanceFinished):  # it had all its events from a host before this one
                for event in range(EVENTS):
                    await instance.send_event(type="event", payload=event, id=f"event-{event}")
        for number, instance in enumerate(instances):
            ledger.write("ended", f"i-{number}", await instance.result())
        ledger.write("done")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
