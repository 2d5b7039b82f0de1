"""An object that comes in parts: each is put aside as it comes, and all of them become the object at once, or none.

Parts count as stored. What nobody has finished within a week is forgotten when its tenant begins another upload. How
content is kept and entered under a key is the bucket's business.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from cloister.ipc import RpcTarget

from ..http.bodies import Sent
from . import options as given
from .conditions import ANY

if TYPE_CHECKING:
    from .bucket import Bucket

_MOST_PARTS: Final = 10_000
_KEPT_S: Final = 7 * 86_400
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS uploads (
  id      TEXT PRIMARY KEY,
  tenant  TEXT NOT NULL,
  bucket  TEXT NOT NULL,
  key     TEXT NOT NULL,
  http    TEXT NOT NULL,
  custom  TEXT NOT NULL,
  begun   REAL NOT NULL,
  charged INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX IF NOT EXISTS uploads_of ON uploads (tenant, begun);
CREATE TABLE IF NOT EXISTS parts (
  upload TEXT NOT NULL,
  number INTEGER NOT NULL,
  file   TEXT NOT NULL,
  size   INTEGER NOT NULL,
  etag   TEXT NOT NULL,
  PRIMARY KEY (upload, number)
) WITHOUT ROWID, STRICT;
"""


class MultipartUpload(RpcTarget):
    """One upload of a bucket's: `upload_part`, `complete`, `abort`."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._bucket, self._key, self._id = bucket, key, upload_id
        self._store, self._tenant = bucket._store, bucket._scope[0]

    def rpc_attributes(self) -> Mapping[str, Any]:
        """Which it is."""
        return {"workers.class": "Upload", "key": self._key, "uploadId": self._id}

    async def upload_part(self, number: object, value: object, options: object = None, /) -> dict[str, Any]:
        """Put a part aside, from 1 to 10,000, in place of an earlier one: `{partNumber, etag}`."""
        which = given.number({"partNumber": number}, "partNumber", 0, 1, _MOST_PARTS)
        content = await self._bucket._written(value, await self._store.room(self._tenant))

        def work(connection: sqlite3.Connection) -> list[str]:
            self._found(connection)
            before = connection.execute(
                "DELETE FROM parts WHERE upload = ? AND number = ? RETURNING file, size", (self._id, which)
            ).fetchall()
            more = content.size - sum(size for _, size in before)
            self._store.charge(connection, self._tenant, more, 1 - len(before))
            connection.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", (self._id, which, *content))
            return [file for file, _ in before]

        await self._done(work, content.file)
        return {"partNumber": which, "etag": content.etag}

    async def complete(self, parts: object, /) -> Sent:
        """Make an object of these parts, in the order of their numbers. Nothing changes if one of them is not there."""
        wanted = _numbered(parts)
        files = await self._store.look(self._tenant, lambda connection: self._chosen(connection, wanted))
        size = sum(size for _, size in files)
        room = await self._store.room(self._tenant) + size
        content = await self._store.write(self._joined(files), self._tenant, room, expected=size)

        def work(connection: sqlite3.Connection) -> list[str]:
            key, http, custom = self._found(connection)
            if self._chosen(connection, wanted) != files:
                raise ValueError("a part was replaced while the upload was completed")
            unused = self._removed(connection)
            row = (key, *content, self._store.now(), http, custom)
            return [*unused, *self._bucket._enter(connection, row, ANY)]

        await self._done(work, content.file)
        head = await self._bucket.head(self._key)
        if head is None:
            raise ValueError("the object was deleted a moment after the upload was completed")
        return head

    async def abort(self) -> None:
        """Forget the upload and its parts. Harmless where there is none."""
        await self._done(self._removed, None)

    uploadPart = upload_part  # noqa: N815 - the name of R2

    async def _done(self, work: Any, file: str | None) -> None:
        """One transaction; what is of no use after it goes, and what was written for it if it fails."""
        try:
            unused = await self._store.work(self._tenant, work)
        except BaseException:
            if file is not None:
                await asyncio.shield(self._store.forget([file]))
            raise
        await self._store.forget(unused)

    def _found(self, connection: sqlite3.Connection) -> tuple[str, str, str]:
        row = connection.execute(
            "SELECT key, http, custom FROM uploads WHERE id = ? AND tenant = ? AND bucket = ? AND key = ?",
            (self._id, *self._bucket._scope, self._key),
        ).fetchone()
        if row is None:
            raise ValueError(f"there is no upload {self._id!r:.60} of {self._key!r:.80}: it was completed or aborted")
        return row[0], row[1], row[2]

    def _chosen(self, connection: sqlite3.Connection, wanted: Sequence[tuple[int, str]]) -> list[tuple[str, int]]:
        self._found(connection)
        files = []
        for number, etag in wanted:
            row = connection.execute(
                "SELECT file, size FROM parts WHERE upload = ? AND number = ? AND etag = ?", (self._id, number, etag)
            ).fetchone()
            if row is None:
                raise ValueError(f"there is no part {number} with this etag")
            files.append((row[0], row[1]))
        return files

    def _removed(self, connection: sqlite3.Connection) -> list[str]:
        mine = connection.execute(
            "SELECT id FROM uploads WHERE id = ? AND tenant = ? AND bucket = ? AND key = ?",
            (self._id, *self._bucket._scope, self._key),
        ).fetchall()
        files, size, entries = remove(connection, [upload for (upload,) in mine])
        self._store.charge(connection, self._tenant, -size, -entries)
        return files

    async def _joined(self, files: Sequence[tuple[str, int]]) -> AsyncIterator[bytes]:
        for file, size in files:
            async with aclosing(await self._store.read(self._tenant, file, 0, size)) as reading:
                async for piece in reading:
                    yield piece


async def begin(bucket: Bucket, key: str, http: str, custom: str) -> MultipartUpload:
    """A new upload."""
    upload_id, now, size = uuid.uuid4().hex, bucket._store.now(), len(key.encode()) + len(http) + len(custom)

    def work(connection: sqlite3.Connection) -> list[str]:
        old = connection.execute(
            "SELECT id FROM uploads WHERE tenant = ? AND begun < ?", (bucket._scope[0], now - _KEPT_S)
        ).fetchall()
        files, freed, entries = remove(connection, [upload for (upload,) in old])
        bucket._store.charge(connection, bucket._scope[0], size - freed, 1 - entries)
        connection.execute(
            "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (upload_id, *bucket._scope, key, http, custom, now, size),
        )
        return files

    await bucket._store.forget(await bucket._store.work(bucket._scope[0], work))
    return MultipartUpload(bucket, key, upload_id)


def remove(connection: sqlite3.Connection, uploads: Sequence[str]) -> tuple[list[str], int, int]:
    """Forget uploads: the files of their parts, and what of bytes and entries is stored no longer."""
    files, freed, entries = [], 0, 0
    for upload in uploads:
        for file, size in connection.execute("DELETE FROM parts WHERE upload = ? RETURNING file, size", (upload,)):
            files.append(file)
            freed, entries = freed + size, entries + 1
        for (size,) in connection.execute("DELETE FROM uploads WHERE id = ? RETURNING charged", (upload,)):
            freed, entries = freed + size, entries + 1
    return files, freed, entries


def _numbered(parts: object) -> list[tuple[int, str]]:
    if not isinstance(parts, list) or not 0 < len(parts) <= _MOST_PARTS:
        raise ValueError("complete() takes a list of what uploadPart() gave")
    wanted: dict[int, str] = {}
    for part in parts:
        found = given.options(part, {}, "part_number etag", "a part")
        wanted[given.number(found, "part_number", 0, 1, _MOST_PARTS)] = given.text(found, "etag")
    if len(wanted) != len(parts):
        raise ValueError("complete() was given a part twice")
    return sorted(wanted.items())
