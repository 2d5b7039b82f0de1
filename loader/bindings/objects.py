"""Where objects lie: content in files of their own, and a table of what is under which key.

The store makes the names of the files. Content is flushed first, and only then said to be what is under the key, in the
transaction that counts it. What a crash leaves behind is a file that no row knows, which goes when the store is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import uuid
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

from . import uploads
from .files import OpenFiles
from .shelf import Shelf, StorageQuota, stored
from .storage import StorageQuotaExceeded

PIECE: Final = 256 * 1024


class ObjectStore(Shelf):
    """Where the objects of all tenants lie: `async with ObjectStore("objects/") as store`.

    `most_bytes` is how large one object may be; `quota` is of one tenant. While an object is read or written, the host
    has a file open: `files` at once, of which one tenant has `files_per_tenant`, for as long as no piece takes longer
    than `idle_s` seconds.
    """

    schema = (
        """
    CREATE TABLE IF NOT EXISTS objects (
      tenant   TEXT NOT NULL,
      bucket   TEXT NOT NULL,
      key      TEXT NOT NULL,
      file     TEXT NOT NULL,
      size     INTEGER NOT NULL,
      etag     TEXT NOT NULL,
      uploaded REAL NOT NULL,
      http     TEXT NOT NULL,
      custom   TEXT NOT NULL,
      charged  INTEGER NOT NULL,
      PRIMARY KEY (tenant, bucket, key)
    ) WITHOUT ROWID, STRICT;
    """
        + uploads.SCHEMA
    )

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        quota: StorageQuota | None = None,
        most_bytes: int = 1 << 30,
        files: int = 256,
        files_per_tenant: int = 32,
        idle_s: float = 60.0,
        threads: int = 4,
        **options: Any,
    ) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        super().__init__(self._folder / "index.db", quota=quota or StorageQuota(bytes=1 << 32), **options)
        self.most_bytes = most_bytes
        self._idle_s = idle_s
        self._open_files = OpenFiles(files, files_per_tenant)
        self._threads = threads
        self._being_written: Counter[str] = Counter()
        """Bytes of each tenant's that no row knows yet."""
        self._writers: ThreadPoolExecutor

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._writers = ThreadPoolExecutor(self._threads, thread_name_prefix="ObjectStore")
        query = "SELECT file FROM objects UNION ALL SELECT file FROM parts"
        rows = await self.look("", lambda connection: connection.execute(query).fetchall())
        await self.in_thread(self._sweep, {file for (file,) in rows})
        return self

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        self._writers.shutdown()

    async def drop(self, tenant: str) -> None:
        """Delete everything that is a tenant's."""

        def work(connection: sqlite3.Connection) -> list[str]:
            size, entries = stored(connection, tenant)
            gone = connection.execute("DELETE FROM objects WHERE tenant = ? RETURNING file", (tenant,)).fetchall()
            begun = connection.execute("SELECT id FROM uploads WHERE tenant = ?", (tenant,)).fetchall()
            parts, _, _ = uploads.remove(connection, [upload for (upload,) in begun])
            self.charge(connection, tenant, -size, -entries)
            return [*(file for (file,) in gone), *parts]

        await self.forget(await self.work(tenant, work))

    async def room(self, tenant: str) -> int:
        """Bytes that a tenant may store still."""
        used = (await self.usage(tenant))["bytes"]
        if self.storage is None:
            return max(self.quota.bytes - used, 0)
        async with self.storage.held(tenant) as account:
            return max(min(self.quota.bytes - used, account.room), 0)

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Something that reads or writes a file."""
        return await asyncio.get_running_loop().run_in_executor(self._writers, work, *arguments)

    def path(self, file: str) -> Path:
        """Where content lies, by the name that the store has given it."""
        return self._folder / file[:2] / file

    async def write(self, content: AsyncIterator[bytes], tenant: str, room: int, *, expected: int = 0) -> Written:
        """Content in a new file, on disk. `StorageQuotaExceeded` if there is more of it than may be, or more than there
        is room for, with what else the tenant is writing at that time. So many bytes are `expected` at least."""
        file, digest, size = uuid.uuid4().hex, hashlib.md5(usedforsecurity=False), 0
        path = self.path(file)
        with self._open_files.one(tenant), self._reserved(tenant, room) as reserve:
            reserve(expected)
            opened: IO[bytes] = await self.in_thread(_create, path)
            try:
                while (piece := await self._piece(content)) is not None:
                    size += len(piece)
                    reserve(size)
                    digest.update(piece)
                    await self.in_thread(opened.write, piece)
                await self.in_thread(_finish, opened)
            except BaseException:
                await asyncio.shield(self.in_thread(_abandon, opened, path))
                raise
        return Written(file, size, digest.hexdigest())

    async def _piece(self, content: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(content, None)
        except TimeoutError:
            raise TimeoutError(f"an object that is written has to go on within {self._idle_s:g} s") from None

    @contextlib.contextmanager
    def _reserved(self, tenant: str, room: int) -> Iterator[Callable[[int], None]]:
        """A function that keeps room for an object of some size, until it is counted or given up."""
        kept, most = 0, min(self.most_bytes, room)

        def reserve(size: int) -> None:
            nonlocal kept
            more = max(size - kept, 0)
            if size > most:
                raise StorageQuotaExceeded(f"the object would have more than {most:,} bytes")
            if self._being_written[tenant] + more > room:
                raise StorageQuotaExceeded(f"the objects being written would have more than {room:,} bytes")
            self._being_written[tenant] += more
            kept += more

        try:
            yield reserve
        finally:
            self._being_written[tenant] -= kept
            if not self._being_written[tenant]:
                del self._being_written[tenant]

    async def read(self, tenant: str, file: str, start: int, length: int) -> Reading:
        """Some of it, from some place on. `FileNotFoundError` if it was forgotten, `TenantThrottled` or `NoCapacity`
        if too many are open."""
        with contextlib.ExitStack() as held:
            held.enter_context(self._open_files.one(tenant))
            opening = asyncio.ensure_future(self.in_thread(_open, self.path(file), start))
            try:
                opened: IO[bytes] = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_let_go)
                raise
            held.callback(opened.close)
            return Reading(self, opened, length, self._idle_s, held.pop_all())

    async def forget(self, files: Sequence[str]) -> None:
        """Content that no row knows any longer."""
        for file in files:
            await self.in_thread(_remove, self.path(file))

    def _sweep(self, known: set[str]) -> None:
        for path in self._folder.glob("??/*"):
            if path.name not in known:
                path.unlink()


class Written(NamedTuple):
    """Content that is on disk."""

    file: str
    size: int
    etag: str


class Reading:
    """A file from some place on. What it was when it was opened is read, whatever becomes of the key meanwhile.

    It is let go of when it was read or closed, when nobody has it any longer, and when nobody reads on for too long.
    """

    def __init__(
        self, store: ObjectStore, opened: IO[bytes], length: int, idle_s: float, held: contextlib.ExitStack
    ) -> None:
        self._store, self._opened, self._left, self._idle_s = store, opened, length, idle_s
        self._let_go = weakref.finalize(self, held.close)
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False
        self._wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._expired:
            raise TimeoutError(f"an object that is read has to be read on within {self._idle_s:g} s")
        self._wait()
        wanted = min(PIECE, self._left)
        piece: bytes = await self._store.in_thread(self._opened.read, wanted) if wanted else b""
        self._left -= len(piece)
        if not piece:
            await self.aclose()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Nobody reads on."""
        self._left = 0
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        itself = weakref.ref(self)
        self._timer = asyncio.get_running_loop().call_later(self._idle_s, lambda: _expire(itself()))


def _expire(reading: Reading | None) -> None:
    if reading is not None:
        reading._expired = True
        reading._let_go()


def _let_go(opening: asyncio.Future[IO[bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(exist_ok=True)
    return path.open("xb")


def _finish(opened: IO[bytes]) -> None:
    with opened:
        opened.flush()
        os.fsync(opened.fileno())
    folder = os.open(Path(opened.name).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _abandon(opened: IO[bytes], path: Path) -> None:
    opened.close()
    path.unlink(missing_ok=True)


def _open(path: Path, start: int) -> IO[bytes]:
    opened = path.open("rb")
    opened.seek(start)
    return opened
