"""Responses whose head says that they are compressed: by whom, and what each reader of them has."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cloister.loader import Loader, RpcTarget, TenantError, WorkerCode
from cloister.loader.http import Request, Response, asgi

WORDS = b"as many words as it takes. " * 200
_numbers = itertools.count(1)

WORKER = """
import asyncio, gzip, js, os, zlib
from workers import Response, WorkerEntrypoint
WORDS = b"as many words as it takes. " * 200
LONG = os.urandom(300_000) + bytes(700_000)

def bomb():
    machine = zlib.compressobj(wbits=31)
    return b"".join([machine.compress(bytes(1_000_000)) for _ in range(200)]) + machine.flush()

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        how, _, coding = request.url.rpartition("/")[2].partition("-")
        headers = {"content-encoding": coding or "gzip"}
        if how == "automatic":
            headers["content-length"] = str(len(WORDS))
        match how:
            case "automatic":
                return Response(WORDS, headers=headers)
            case "manual":
                return js.Response.new(gzip.compress(WORDS, mtime=0), headers=headers, encodeBody="manual")
            case "long":
                return Response(LONG, headers=headers)
            case "written":
                return Response(gzip.compress(LONG), headers=headers, encode_body="manual")
            case "streamed":
                async def pieces():
                    yield WORDS
                    yield WORDS
                return Response(pieces(), headers=headers)
            case "held":
                async def pieces():
                    yield WORDS
                    await asyncio.Event().wait()
                return Response(pieces(), headers=headers)
            case "nothing":
                return Response(None, 204, headers=headers)
            case "clone":
                return Response(WORDS, headers=headers).clone()
            case "wrong":
                return Response(b"no such thing", headers=headers, encode_body="manual")
            case "short":
                return Response(gzip.compress(WORDS)[:-9], headers=headers, encode_body="manual")
            case "two":
                return Response(gzip.compress(WORDS) * 2, headers=headers, encode_body="manual")
            case "bomb":
                return Response(bomb(), headers=headers, encode_body="manual")
            case "pass":
                return await self.env.SHOP.fetch("http://shop/" + coding)
            case "dress":
                found = await self.env.SHOP.fetch("http://shop/" + coding)
                return Response(found.body, headers=found.headers)
            case "undress":
                found = await self.env.SHOP.fetch("http://shop/" + coding)
                return Response(found.body)

    async def read(self, how):
        response = await self.env.SHOP.fetch("http://shop/" + how)
        return [response.headers.get("content-encoding"), await response.bytes()]

    async def twice(self, how):
        response = await self.env.SHOP.fetch("http://shop/" + how)
        other = response.clone()
        return [await response.bytes(), await other.bytes()]

    async def count(self, how):
        most = size = 0
        async for piece in (await self.env.SHOP.fetch("http://shop/" + how)).body:
            size, most = size + len(piece), max(most, len(piece))
        return [size, most]

    async def cached(self):
        response = await self.env.SHOP.fetch("http://shop/manual")
        body, headers = gzip.compress(await response.bytes()), {"content-encoding": "gzip"}
        response = Response(body, headers=headers, encode_body="manual")
        await js.caches.default.put("http://shop/x", response)
        return await (await js.caches.default.match("http://shop/x")).bytes()

    def encoded(self, how):
        return Response("x", encode_body=how)
"""


@pytest.fixture
def shop(loader: Loader) -> Any:
    """A worker that answers, one that asks it, and one that asks itself."""
    loaded: dict[str, Any] = {}
    name = f"shop-{next(_numbers)}"
    shop = loader.get(name, lambda: loaded["shop"]).get_entrypoint()
    loaded["shop"] = WorkerCode(main_module="m.py", modules={"m.py": WORKER}, env={"SHOP": shop})
    asker = WorkerCode(main_module="m.py", modules={"m.py": WORKER}, env={"SHOP": shop})
    return {"shop": shop, "asker": loader.load(asker).get_entrypoint()}


async def http(target: Any, how: str, method: str = "GET") -> httpx.Response:
    """What a client has of it, which undoes what the head says."""
    transport = httpx.ASGITransport(asgi(target))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return await client.request(method, f"/{how}")


@pytest.mark.parametrize("how", ["automatic", "manual", "clone", "pass-automatic", "pass-manual", "dress-manual"])
async def test_a_client_is_sent_what_the_head_says(shop: Any, how: str) -> None:
    """Compressed once: by the runtime, or by the program that says so."""
    response = await http(shop["asker"], how)
    assert response.headers["content-encoding"] == "gzip"
    assert response.content == WORDS
    assert int(response.headers["content-length"]) < len(WORDS)


@pytest.mark.parametrize("how", ["long", "written", "pass-long", "pass-written"])
async def test_a_long_one_is_compressed_as_it_is_read(shop: Any, how: str) -> None:
    """In pieces, of a length that nobody knows before."""
    response = await http(shop["asker"], how)
    assert len(response.content) == 1_000_000
    assert response.content.endswith(bytes(700_000))


async def test_what_was_undone_and_is_not_said_any_longer_is_sent_plain(shop: Any) -> None:
    """Body and head fit."""
    response = await http(shop["asker"], "undress-manual")
    assert "content-encoding" not in response.headers
    assert response.content == WORDS


async def test_what_is_passed_on_is_the_very_bytes_that_came(shop: Any) -> None:
    """Nobody compresses them anew."""
    came = await (await shop["shop"].fetch(Request("http://shop/manual"))).bytes()
    assert await (await shop["asker"].fetch(Request("http://shop/pass-manual"))).bytes() == came


@pytest.mark.parametrize("coding", ["deflate", "identity", "zstd", "GZIP"])
async def test_what_the_runtime_does_not_compress_by_is_sent_as_it_was_made(shop: Any, coding: str) -> None:
    """As on Cloudflare, whose runtime knows two."""
    response = await shop["asker"].fetch(Request(f"http://shop/automatic-{coding}"))
    assert dict(response.headers)["content-encoding"] == coding
    assert await response.bytes() == WORDS


async def test_brotli_is_refused_in_words(shop: Any) -> None:
    """And not sent as something else than it says."""
    with pytest.raises(TenantError, match="there is no brotli in a sandbox: send gzip"):
        await shop["asker"].fetch(Request("http://shop/automatic-br"))


async def test_brotli_that_came_can_be_passed_on_but_not_read(loader: Loader) -> None:
    """Who reads it is told what to ask for."""

    class Shop(RpcTarget):
        async def fetch(self, *_: object, **__: object) -> Any:
            return Response(b"in brotli", headers={"content-encoding": "br"}).sent()

    code = WorkerCode(main_module="m.py", modules={"m.py": WORKER}, env={"SHOP": Shop()})
    target = loader.load(code).get_entrypoint()
    assert await (await target.fetch(Request("http://a/pass-x"))).bytes() == b"in brotli"
    with pytest.raises(TenantError, match=r"compressed by br, .* ask with `Accept-Encoding: gzip`"):
        await target.read("x")


async def test_a_piece_that_was_made_is_sent_whatever_comes_after_it(shop: Any) -> None:
    """A stream of events is not held back until there is more of it."""
    async with await shop["asker"].fetch(Request("http://shop/held")) as response:
        machine, found = zlib.decompressobj(31), b""
        pieces: AsyncIterator[bytes] = aiter(response)
        while len(found) < len(WORDS):
            found += machine.decompress(await anext(pieces))
    assert found == WORDS


async def test_nothing_stays_nothing(shop: Any) -> None:
    """A response without a body has none because its head says that it is compressed; one to HEAD is sent none."""
    assert (await http(shop["asker"], "nothing")).content == b""
    head = await http(shop["asker"], "automatic", "HEAD")
    assert head.content == b""
    assert int(head.headers["content-length"]) < len(WORDS)


@pytest.mark.parametrize("who", ["shop", "asker"])
@pytest.mark.parametrize("how", ["automatic", "manual", "long", "written", "streamed"])
async def test_another_worker_reads_what_was_compressed(shop: Any, who: str, how: str) -> None:
    """And so does the same one that asked itself, whether the body came along or is asked for."""
    coding, body = await shop[who].read(how)
    assert coding == "gzip"
    size = {"long": 1_000_000, "written": 1_000_000, "streamed": 2 * len(WORDS)}.get(how, len(WORDS))
    assert len(body) == size


async def test_both_of_a_clone_can_be_read(shop: Any) -> None:
    """Each undoes it by itself."""
    assert await shop["asker"].twice("manual") == [WORDS, WORDS]
    one, other = await shop["asker"].twice("written")
    assert one == other
    assert len(one) == 1_000_000


async def test_what_was_compressed_in_two_parts_is_read_whole(shop: Any) -> None:
    """As any reader of gzip does."""
    assert (await shop["asker"].read("two"))[1] == WORDS * 2


@pytest.mark.parametrize(("how", "words"), [("wrong", "is not gzip"), ("short", "ended early")])
async def test_what_is_not_what_it_says_is_an_error_for_who_reads(shop: Any, how: str, words: str) -> None:
    """And never half of it."""
    with pytest.raises(TenantError, match=words):
        await shop["asker"].read(how)


async def test_a_bomb_is_read_in_pieces(shop: Any) -> None:
    """Of no more than a piece has at most, whatever it was before."""
    assert await shop["asker"].count("bomb") == [200_000_000, 256 * 1024]


async def test_a_cache_keeps_what_was_compressed(shop: Any) -> None:
    """So that it is compressed once when it is sent."""
    assert await shop["asker"].cached() == WORDS


async def test_what_encode_body_may_not_be_is_said(shop: Any) -> None:
    """By the value."""
    with pytest.raises(TenantError, match="encodeBody: unexpected value: 'never'"):
        await shop["asker"].encoded("never")


@pytest.mark.parametrize("how", ["automatic", "manual"])
async def test_libraries_that_undo_it_themselves_have_the_bytes_that_came(loader: Loader, how: str) -> None:
    """Each is used to do it, or to leave it to its caller."""
    origin: Any = loader.load(WorkerCode(main_module="m.py", modules={"m.py": WORKER})).get_entrypoint()
    source = """
import gzip, urllib.request
from workers import WorkerEntrypoint
class Default(WorkerEntrypoint):
    def read(self, how):
        with urllib.request.urlopen("http://shop/" + how) as response:
            return gzip.decompress(response.read())
"""
    asker = loader.load(WorkerCode(main_module="m.py", modules={"m.py": source}, global_outbound=origin))
    assert await asker.get_entrypoint().read(how) == WORDS
