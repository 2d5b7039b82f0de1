"""What a tenant sends to the host's own capabilities costs it what it costs the host to read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.ipc import Connection, Peer, codec, values
from cloister.ipc.messages import Call
from cloister.loader.answers import Answering
from cloister.loader.journal import JournalTarget


def journal() -> JournalTarget:
    """That of a run without history."""
    return JournalTarget(SimpleNamespace(history=()))


@pytest.mark.parametrize("make", [journal, Answering], ids=["journal", "binding"])
async def test_each_element_is_charged(make: Any) -> None:
    """A byte of a list of empty values takes the host as long as a kilobyte of text."""
    read: list[int] = []
    sent: list[bytes] = []
    peer = Peer(Connection(), sent.append, on_read=read.append)
    peer.deliver(Connection(greeted=True).hello(b""))
    number = values.loads(peer.encode(make()), adopt=lambda reference: values.loads(reference)[1])
    peer.deliver(codec.encode(Call(1, number, "recall", values.dumps([[None] * 60_000, {}]))))
    await asyncio.sleep(0)
    assert len(sent) == 1
    assert sum(read) >= 60_000
