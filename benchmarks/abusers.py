"""What tenants do that mean their neighbours no good: programs for `neighbours.py`, one of each kind."""

from __future__ import annotations

from typing import Final

ABUSERS: Final = {
    "CPU in Python": """
        while True:
            pass
    """,
    "CPU in C": """
        sum(range(10**12))
    """,
    "memory hog": """
        held = []
        while True:
            try:
                held.append(b"x" * 2**20)
            except MemoryError:
                pass
    """,
    "thread bomb": """
        def spin():
            while True:
                pass
        while True:
            try:
                threading.Thread(target=spin).start()
            except RuntimeError:
                pass
    """,
    "log flood": """
        while True:
            print("x" * 8000)
    """,
    "wire flood, 16 MiB": """
        size = 2**24 - 2**20
        head = codec.encode(Note("log", b"")) + b"\\x94\\xa4info\\xdb" + size.to_bytes(4, "big")
        frame = [b"\\x02" + (len(head) + size + 2).to_bytes(8, "big") + head, *[b"x" * 2**20] * 15, bytes(2)]
        while True:
            for piece in frame:
                write(piece)
    """,
    "wire flood, small": """
        frames = zmtp.message(codec.encode(Note("log", values.dumps(["info", "x", 0, 0])))) * 1000
        while True:
            write(frames)
    """,
    "call flood": """
        while True:
            await asyncio.gather(*(self.env.ECHO("x" * 1000) for _ in range(500)), return_exceptions=True)
    """,
    "exception storm": """
        async def fail(depth):
            if depth:
                await fail(depth - 1)
            raise ValueError("x" * 10_000)
        while True:
            failing = [asyncio.ensure_future(fail(20)) for _ in range(50)]
            await asyncio.sleep(0)
    """,
    "recursion, Python": """
        sys.setrecursionlimit(10**9)
        def deeper():
            return deeper()
        deeper()
    """,
    "recursion, C": """
        sys.setrecursionlimit(10**9)
        def deeper(_):
            return list(map(deeper, [0]))
        deeper(0)
    """,
}
PROGRAM: Final = """
import asyncio, os, select, sys, threading
from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Note
from workers import WorkerEntrypoint

ready = select.poll()
ready.register(3, select.POLLOUT)

def write(data):
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(3, left):]
        except BlockingIOError:
            ready.poll()

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return name

    async def abuse(self):
"""


def program(body: str) -> str:
    """The source of a tenant that does this when it is asked to."""
    return PROGRAM + "\n".join(f"    {line}" for line in body.splitlines())
