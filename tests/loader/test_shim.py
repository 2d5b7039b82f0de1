"""`js` and `pyodide.ffi`: programs that touch JavaScript lightly run without any. Nothing of it is loaded before."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import RpcTarget
from cloister.loader import WorkerStub
from cloister.loader.http import Request, Response

Make = Callable[..., WorkerStub]


class Web(RpcTarget):
    """The network, as the host of these tests grants it: it answers with what it was asked."""

    async def fetch(self, resource: Any, **options: Any) -> Any:
        """An answer."""
        asked = Request.received(resource, options)
        return Response(await asked.bytes(), headers=[*asked.headers, ("x-method", asked.method)]).sent()


PROGRAM = """
import asyncio
from workers import *

def raises(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError(f"no {{kind.__name__}}")

class Default(WorkerEntrypoint):
    async def go(self):
{body}
"""


@pytest.fixture
def holds(worker: Make) -> Callable[..., Any]:
    """Have a tenant run the body of a function that asserts things."""

    async def run(body: str, **options: Any) -> Any:
        source = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
        return await worker(source, global_outbound=Web(), **options).get_entrypoint().go()

    return run


async def test_nothing_of_it_is_loaded_before_it_is_asked_for(worker: Make) -> None:
    """A program that uses none of it has none of it; nor does asking for one part load the others."""
    source = """
    import sys
    from workers import WorkerEntrypoint
    ROOTS = {"js", "pyodide", "asgi", "wsgi"}
    class Default(WorkerEntrypoint):
        def loaded(self):
            return sorted(name for name in sys.modules if name.split(".")[0] in ROOTS or name.startswith("workers"))
        def to_js(self):
            from pyodide.ffi import to_js
    """
    entry = worker(source).get_entrypoint()
    assert await entry.loaded() == ["workers", "workers.workflows"]
    await entry.to_js()
    assert await entry.loaded() == ["pyodide", "pyodide.ffi", "workers", "workers.workflows"]


async def test_values_are_converted_there_and_back(holds: Any) -> None:
    """Copies, of which each has what programs ask of JavaScript's."""
    await holds("""
        from js import Object
        from pyodide.ffi import JsException, JsProxy, create_proxy, jsnull, to_js
        given = {"id": "x", "params": {"list": [1, (2, 3)], "none": None}}
        made = to_js(given, dict_converter=Object.fromEntries)
        assert made == {"id": "x", "params": {"list": [1, [2, 3]], "none": None}} and made is not given
        assert made.params.list.to_py() == [1, [2, 3]] and made.to_py() == made and type(made.to_py()) is dict
        assert to_js({"a": 1}).a == 1 and to_js(b"ab").to_bytes() == b"ab" and to_js("text") == "text"
        assert to_js([1, 2]).length == 2 and jsnull is None and create_proxy(given) is given
        assert isinstance(made, JsProxy) and not isinstance(self.env, JsProxy)
        from js import Error
        error = Error.new("words")
        assert (error.name, error.message, str(error)) == ("Error", "words", "Error: words")
        assert isinstance(error, JsException)
        assert Object.keys(made) == ["id", "params"] and Object.entries({"a": 1}) == [["a", 1]]
        assert Object.assign(Object.new(), {"a": 1}).a == 1
    """)


async def test_the_language_has_its_names(holds: Any) -> None:
    """Objects, arrays, JSON, dates, numbers, the console, timers."""
    await holds("""
        import datetime, js, time
        from js import JSON, Array, Date, Map, Math, Number, Set, console
        assert JSON.stringify({"a": [1, None, True, "ä"]}) == '{"a":[1,null,true,"ä"]}'
        assert JSON.parse('{"a": {"b": 1}}').a.b == 1 and JSON.stringify({"a": 1}, None, 2) == '{\\n  "a": 1\\n}'
        assert abs(Date.now() - time.time() * 1000) < 60_000 and Date.new(0).toISOString() == "1970-01-01T00:00:00.000Z"
        moment = Date.new("2026-01-02T03:04:05Z")
        assert isinstance(moment, datetime.datetime) and moment.getTime() == 1767323045000
        assert Date.parse(moment.toJSON()) == moment.getTime()
        assert Date.new(2026, 0, 2).getFullYear() == 2026
        assert Array.isArray(Array.of(1, 2)) and getattr(Array, "from")("ab") == ["a", "b"]
        assert Map.new([["a", 1]]) == {"a": 1} and Set.new([1, 1]) == {1} and js.undefined is None
        assert Number.new("1234") == 1234 and Number("1.5") == 1.5 and js.String(5) == "5" and Math.floor(1.5) == 1
        assert js.Uint8Array.new([1, 2]).to_bytes() == b"\\x01\\x02" and js.structuredClone([1]) == [1]
        console.log("a line", 1)
        console.error("another")
        done = asyncio.Event()
        js.setTimeout(done.set, 1)
        await done.wait()
        assert await js.Promise.all([asyncio.sleep(0, 1), asyncio.sleep(0, 2)]) == [1, 2]
        assert js.Error.new("words").message == "words" and js.globalThis is js
    """)


async def test_text_and_chance_have_their_names(holds: Any) -> None:
    """Encodings, hashes and what is random."""
    await holds("""
        import js
        from js import TextDecoder, TextEncoder, crypto
        assert TextEncoder.new().encode("ä").to_bytes() == b"\\xc3\\xa4"
        decoder = TextDecoder.new()
        assert decoder.decode(b"\\xc3", {"stream": True}) + decoder.decode(b"\\xa4") == "ä"
        assert js.encodeURIComponent("a b/ä") == "a%20b%2F%C3%A4" and js.decodeURIComponent("%20") == " "
        moment = __import__("datetime").datetime(2026, 1, 2)
        assert js.JSON.stringify({"at": moment, "x": Request("https://a.b"), "u": js.URL.new("https://a.b/c")}) == (
            '{"at":"2026-01-02T00:00:00","x":{},"u":"https://a.b/c"}')
        assert js.atob(js.btoa("abc")) == "abc" and len(crypto.randomUUID()) == 36
        assert (await crypto.subtle.digest("SHA-256", b"")).hex()[:8] == "e3b0c442"
        assert len(crypto.getRandomValues(js.Uint8Array.new(16))) == 16
    """)


async def test_keys_of_the_standard_library_sign_and_make_others(holds: Any) -> None:
    """HMAC, PBKDF2 and HKDF, against values that others have published. A key is used for what it is for alone."""
    await holds("""
        from js import Object, TextEncoder, Uint8Array, crypto
        from pyodide.ffi import JsException, to_js
        subtle, text = crypto.subtle, TextEncoder.new().encode
        how = to_js({"name": "HMAC", "hash": "SHA-256"}, dict_converter=Object.fromEntries)
        key = await subtle.importKey("raw", text("key"), how, True, to_js(["sign", "verify"]))
        said = text("The quick brown fox jumps over the lazy dog")
        mac = await subtle.sign("HMAC", key, said)
        assert mac.hex() == "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
        assert await subtle.verify("HMAC", key, mac, said) and not await subtle.verify("HMAC", key, mac, text("x"))
        jwk = await subtle.exportKey("jwk", key)
        assert (jwk.kty, jwk.k) == ("oct", "a2V5") and (key.type, key.algorithm.name) == ("secret", "HMAC")
        again = await subtle.importKey("jwk", jwk, how, False, ["verify"])
        assert await subtle.verify("HMAC", again, mac, said)
        for wrong, name in ((subtle.sign("HMAC", again, said), "InvalidAccessError"),
                            (subtle.exportKey("raw", again), "InvalidAccessError"),
                            (subtle.digest("SHA-0", said), "NotSupportedError")):
            try:
                await wrong
            except JsException as error:
                assert error.name == name, error.name
            else:
                raise AssertionError(name)
        assert subtle.timingSafeEqual(mac, Uint8Array.new(mac)) and not subtle.timingSafeEqual(b"a", b"b")
        raises(TypeError, "same byte length", subtle.timingSafeEqual, b"a", b"ab")
        word = await subtle.importKey("raw", text("password"), "PBKDF2", False, ["deriveBits", "deriveKey"])
        rounds = {"name": "PBKDF2", "hash": "SHA-1", "salt": b"salt", "iterations": 2}
        bits = await subtle.deriveBits(rounds, word, 160)
        assert bits.hex() == "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"
        made = await subtle.deriveKey(rounds, word, {"name": "HMAC", "hash": "SHA-256", "length": 160}, True, ["sign"])
        assert await subtle.exportKey("raw", made) == bits
        secret = await subtle.importKey("raw", bytes([11] * 22), "HKDF", False, ["deriveBits"])
        given = {"name": "HKDF", "hash": "SHA-256", "salt": bytes(range(13)), "info": bytes(range(0xF0, 0xFA))}
        assert (await subtle.deriveBits(given, secret, 336)).hex() == (
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    """)


SIGNED = """
    import base64
    def b64(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    from js import Object, crypto
    from pyodide.ffi import JsException
    subtle, data, found = crypto.subtle, b"what is signed", []
    for how in ({"name": "RSASSA-PKCS1-v1_5", "hash": "SHA-256", "modulusLength": 2048, "publicExponent": b"\\1\\0\\1"},
                {"name": "ECDSA", "namedCurve": "P-256"}, {"name": "Ed25519"}):
        algo = Object.new()
        for name, value in how.items():
            setattr(algo, name, value)
        pair = await subtle.generateKey(algo, True, ["sign", "verify"])
        use = {"name": how["name"], "hash": "SHA-256"}
        signature = await subtle.sign(use, pair.privateKey, data)
        spki, pkcs8 = await subtle.exportKey("spki", pair.publicKey), await subtle.exportKey("pkcs8", pair.privateKey)
        public = await subtle.importKey("spki", spki, algo, False, ["verify"])
        private = await subtle.importKey("pkcs8", pkcs8, algo, False, ["sign"])
        assert await subtle.verify(use, public, signature, data)
        assert await subtle.verify(use, public, await subtle.sign(use, private, data), data)
        assert not await subtle.verify(use, public, signature, data + b".")
        found.append(len(signature))
        if how["name"] == "Ed25519":
            continue
        theirs, mine = pair.publicKey.material.public_numbers(), pair.privateKey.material.private_numbers()
        named = {"x": theirs.x, "y": theirs.y, "d": mine.private_value} if "namedCurve" in how else {
            "n": theirs.n, "e": theirs.e, "d": mine.d, "p": mine.p, "q": mine.q, "dp": mine.dmp1, "dq": mine.dmq1,
            "qi": mine.iqmp}
        jwk = {name: b64(number.to_bytes((number.bit_length() + 7) // 8)) for name, number in named.items()}
        jwk["crv"] = how.get("namedCurve")
        private = await subtle.importKey("jwk", jwk, algo, False, ["sign"])
        del jwk["d"]
        public = await subtle.importKey("jwk", jwk, algo, False, ["verify"])
        assert (private.type, public.type) == ("private", "public")
        assert await subtle.verify(use, public, await subtle.sign(use, private, data), data)
    assert found == [256, 64, 64], found
    for name in ("AES-GCM", "AES-CBC"):
        key = await subtle.generateKey({"name": name, "length": 256}, False, ["encrypt", "decrypt"])
        way = {"name": name, "iv": bytes(16)}
        hidden = await subtle.encrypt(way, key, data)
        assert hidden != data and await subtle.decrypt(way, key, hidden) == data
        try:
            await subtle.decrypt(way, key, hidden[:-1])
        except JsException as error:
            assert error.name == "OperationError"
        else:
            raise AssertionError("it was changed")
    # RFC 8032, its third test
    raw = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    rfc = await subtle.importKey("raw", raw, "Ed25519", False, ["verify"])
    signed = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a")
    assert await subtle.verify("Ed25519", rfc, signed, bytes.fromhex("af82"))
"""


async def test_other_keys_are_the_business_of_the_profile(holds: Any) -> None:
    """With the package `cryptography` in it they are as in a browser; without it the error says so."""
    await holds(SIGNED, preload=("cryptography",))
    await holds("""
        from js import crypto
        from pyodide.ffi import JsException
        try:
            await crypto.subtle.importKey("raw", bytes(32), "Ed25519", False, ["verify"])
        except JsException as error:
            assert error.name == "NotSupportedError" and 'preload=("cryptography",)' in str(error)
        else:
            raise AssertionError("nothing was said")
    """)


async def test_the_web_has_its_names(holds: Any) -> None:
    """They make what `workers` has, and take options as a map or by name."""
    await holds("""
        import js
        from js import URL, Headers, Object, URLSearchParams
        from pyodide.ffi import to_js
        options = to_js({"status": 201, "headers": {"a": "b"}}, dict_converter=Object.fromEntries)
        for made in (js.Response.new("x", options), js.Response.new("x", status=201, headers=Headers.new({"a": "b"}))):
            assert isinstance(made, Response) and isinstance(made, js.Response)
            assert (made.status, made.headers.get("a"), await made.text()) == (201, "b", "x")
        assert await js.Response.json({"a": 1}).text() == '{"a":1}' and js.Response.redirect("http://a.b").status == 302
        first = js.Response.new("x", status=201, headers={"a": "b"})
        second = js.Response.new(first.body, first)
        second.headers.set("c", "d")
        assert (second.status, second.headers.get("a"), second.headers.get("c")) == (201, "b", "d")
        assert first.headers.get("c") is None
        asked = js.Request.new("https://a.b/", method="PUT", body="x", headers={"a": "b"})
        again = js.Request.new("https://b.c/", asked)
        assert (again.url, again.method, again.headers["a"], await again.text()) == ("https://b.c/", "PUT", "b", "x")
        asked = js.Request.new("https://test.com", to_js({"method": "POST", "body": "x", "cf": {"colo": "DFW"}}))
        assert isinstance(asked, Request) and asked.method == "POST" and Request(asked).cf.colo == "DFW"
        answer = await js.fetch("https://a.b/", method="PUT", body="data")
        assert answer.headers.get("x-method") == "PUT" and (await answer.arrayBuffer()).tobytes() == b"data"
        url = URL.new("https://user@A.example:8443/a/b?x=1&y=%20#top")
        assert (url.protocol, url.host, url.hostname, url.port, url.pathname, url.search, url.hash, url.origin) == (
            "https:", "a.example:8443", "a.example", "8443", "/a/b", "?x=1&y=%20", "#top", "https://a.example:8443")
        assert url.searchParams.get("y") == " " and URL.new("../c", "https://a.b/d/e").href == "https://a.b/c"
        assert URL.new("https://a.b:443").host == "a.b" and str(URL.new("https://a.b")) == "https://a.b/"
        url.searchParams.set("x", 2)
        assert "x=2" in url.href and await (await js.fetch(url)).text() == ""
        raises(TypeError, "Invalid URL", URL.new, "nowhere")
        url = URL.new("https://a.b:8443/c?x=1&x=2#d")
        url.hostname, url.protocol = "e.f", "http"
        assert url.href == "http://e.f:8443/c?x=1&x=2#d", url.href
        url.host, url.username, url.password = "[::1]:80", "u", "p"
        assert (url.href, url.host) == ("http://u:p@[::1]/c?x=1&x=2#d", "[::1]"), url.href
        assert "x" in url.searchParams and "y" not in url.searchParams and url.searchParams["x"] == "1"
        assert url.searchParams["y"] is None and list(url.searchParams.values()) == ["1", "2"]
        url.href = "https://g.h/"
        assert str(url) == "https://g.h/" and url.searchParams.size == 0
        asked = js.Request.new("https://a.b/", headers={"a": "b"})
        asked.headers["a"], asked.headers["c"] = "d", "e"
        answer = await js.fetch(asked)
        assert (answer.headers["a"], answer.headers["c"]) == ("d", "e")
        headers = Headers.new()
        headers.append("Accept-Encoding", "deflate")
        headers.append("Accept-Encoding", "gzip")
        assert headers.has("accept-encoding") and list(headers) == [("accept-encoding", "deflate, gzip")]
        assert Request("http://a.b", headers=headers).headers["accept-encoding"] == "deflate, gzip"
        form = js.FormData.new()
        form.append("foobar", 123)
        form.append("file", js.Blob.new(to_js(["text"]), type="text/plain"), "a.txt")
        assert FormData(form)["foobar"] == "123" and isinstance(form["file"], File)
        assert (await Request("http://a.b", body=form, method="POST").form_data())["foobar"] == "123"
        params = URLSearchParams.new({"a": "1"})
        assert (await Request("http://a.b", body=params, method="POST").form_data())["a"] == "1"
    """)


async def test_numbers_in_bytes_have_their_names(holds: Any) -> None:
    """Each is the bytes themselves, whatever it is looked at as."""
    await holds("""
        import js
        from pyodide.ffi import to_js
        words = js.Int16Array.new(to_js([1, -2]))
        assert words == b"\\x01\\x00\\xfe\\xff" and list(words) == [1, -2] and words[1] == -2
        assert (words.length, words.byteLength, words.subarray(1).to_bytes()) == (2, 4, b"\\xfe\\xff")
        assert js.Uint8Array.new(words.buffer, 1, 2) == b"\\x00\\xfe" and js.Uint8Array.new(2) == b"\\0\\0"
        assert list(js.Uint8ClampedArray.of(-1, 300, 7)) == [0, 255, 7] and js.Uint8Array.new([257]) == b"\\1"
        assert list(js.Float64Array.new([1.5, 2])) == [1.5, 2.0] and js.Float64Array.new(2).byteLength == 16
        assert js.DataView.new(words.buffer).byteOffset == 0 and js.Int8Array.new([-1]) == b"\\xff"
        raises(OverflowError, "", js.Int8Array.new, [200])
        assert await Response(js.Uint32Array.new([1])).bytes() == b"\\1\\0\\0\\0"
    """)


async def test_streams_are_made_as_javascript_makes_them(holds: Any) -> None:
    """Put in at the start or when it is asked for, written to, and made something else of on the way."""
    await holds("""
        import asyncio
        from js import Object, ReadableStream, Response, TextEncoder, TransformStream, WritableStream
        from pyodide.ffi import create_proxy, to_js
        def start(controller):
            controller.enqueue(to_js(b"a"))
            controller.enqueue("b")
            controller.close()
        stream = ReadableStream.new(to_js({"start": create_proxy(start)}, dict_converter=Object.fromEntries))
        assert await Response.new(stream).text() == "ab" and stream.locked
        left = [3, 2, 1]
        def pull(controller):
            controller.enqueue(str(left.pop()))
            left or controller.close()
        one, other = ReadableStream.new(pull=pull).tee()
        assert await Response.new(one).text() == await Response.new(other).text() == "123"
        pipe = TransformStream.new()
        writer = pipe.writable.getWriter()
        async def write():
            for number in range(100):
                await writer.ready
                await writer.write(TextEncoder.new().encode(f"{number} "))
            await writer.close()
        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.01)
        assert not writing.done()  # until somebody reads
        assert (await Response.new(pipe.readable).text()).split() == [str(number) for number in range(100)]
        await writing
        louder = TransformStream.new(
            transform=lambda piece, controller: controller.enqueue(bytes(piece).upper()),
            flush=lambda controller: controller.enqueue("!"),
        )
        said = []
        source = ReadableStream.new(start=lambda controller: (controller.enqueue("tea"), controller.close()))
        sink = WritableStream.new(write=lambda piece, controller: said.append(bytes(piece)))
        await source.pipeThrough(louder).pipeTo(sink)
        assert said == [b"TEA", b"!"]
        gone = []
        endless = ReadableStream.new(pull=lambda controller: controller.enqueue("x"), cancel=gone.append)
        reader = endless.getReader()
        assert (await reader.read()).value == b"x"
        await reader.cancel()
        assert gone == [None]
        broken = ReadableStream.new(start=lambda controller: 1 / 0)
        try:
            await Response.new(broken).text()
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError("nothing was told")
    """)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WebAssembly", "has to be in the runtime profile"),
        ("eval", "no JavaScript here"),
        ("Buffer", "use bytes"),
    ],
)
async def test_what_has_no_place_here_says_so(holds: Any, name: str, words: str) -> None:
    """When it is used, and what to use instead. It can be imported, so that the rest of the program runs."""
    await holds(f"""
        from js import {name}
        for use in (lambda: {name}.new(), lambda: {name}()):
            try:
                use()
            except NotImplementedError as error:
                assert "js.{name} does not exist in a sandbox" in str(error) and "{words}" in str(error)
            else:
                raise AssertionError("it was used")
        import js
        raises(AttributeError, "this is CPython, and runs no JavaScript", getattr, js, "Nothing")
        assert not hasattr({name}, "release") and not hasattr(js, "process"), "so programs ask whether this is Node"
    """)


async def test_what_is_asynchronous_can_be_waited_for_where_nothing_is(holds: Any) -> None:
    """The loop goes on underneath, timers and other tasks and calls of the host too; what is raised is raised."""
    await holds("""
        from pyodide.ffi import can_run_sync, run_sync
        ticks = []
        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0.001)
        async def work():
            while len(ticks) < 4:
                await asyncio.sleep(0.001)
            return await (await fetch("https://a.b/", method="POST", body="x")).text()
        other = asyncio.ensure_future(tick())
        assert can_run_sync() and run_sync(work()) == "x"
        def inner():
            return run_sync(asyncio.sleep(0.001, 5))
        async def outer():
            return inner() + 1
        assert run_sync(outer()) == 6 and run_sync(asyncio.sleep(0, 7)) == 7
        async def fails():
            raise ValueError("no")
        raises(ValueError, "no", run_sync, fails())
        assert await asyncio.to_thread(run_sync, asyncio.sleep(0.001, 8)) == 8
        assert asyncio.current_task() is not None
        other.cancel()
    """)


async def test_the_names_around_it_are_there(holds: Any) -> None:
    """As far as published programs name them."""
    await holds(
        """
        import _cloudflare_compat_flags, pyodide, pyodide.http
        from pyodide.webloop import WebLoop
        assert await (await pyodide.http.pyfetch("https://a.b/", method="POST", body="x")).text() == "x"
        assert pyodide.http.open_url("https://a.b/").read() == "" and pyodide.__version__
        assert _cloudflare_compat_flags.python_workflows and not _cloudflare_compat_flags.other
        raises(AttributeError, "runs no JavaScript", getattr, pyodide, "runPython")
    """,
        compatibility_date="2026-04-21",
    )


async def test_answers_are_kept_for_a_while(holds: Any) -> None:
    """By URL, in caches of their own; for as long as their headers say, and those that were not used make room."""
    await holds("""
        from js import caches, Response
        import cloister.sandbox.guest.caches as kept
        from email.utils import formatdate
        import time
        cache = caches.default
        url = "http://a.b/tea?x"
        assert await cache.match(url) is None
        await cache.put(url, Response.new("tea", {"headers": {"cache-control": "s-maxage=60", "etag": '"1"'}}))
        found = await cache.match(Request(url))
        assert await found.text() == "tea" and found.headers["cf-cache-status"] == "HIT"
        assert (await cache.match(Request(url, headers={"if-none-match": 'W/"1"'}))).status == 304
        assert await (await cache.match(Request(url, method="HEAD"))).text() == ""
        part = await cache.match(Request(url, headers={"range": "bytes=1-5"}))
        assert (part.status, await part.text(), part.headers["content-range"]) == (206, "ea", "bytes 1-2/3")
        part = await cache.match(Request(url, headers={"range": "bytes=-2"}))
        assert (await part.text(), part.headers["content-range"]) == ("ea", "bytes 1-2/3")
        part = await cache.match(Request(url, headers={"range": "bytes=3-"}))
        assert (part.status, part.body, part.headers["content-range"]) == (416, None, "bytes */3")
        assert await cache.match(Request(url, method="POST")) is None
        assert await cache.match(Request(url, method="POST"), ignoreMethod=True)
        other = await caches.open("other")
        assert await other.match(url) is None
        assert await cache.delete(url) and not await cache.delete(url) and await cache.match(url) is None
        for headers in ({"cache-control": "no-store"}, {"cache-control": "max-age=0"}, {"set-cookie": "a=b"},
                        {"expires": formatdate(time.time() - 60, usegmt=True)}, {"cache-control": "private"}):
            await cache.put(url, Response.new("tea", headers=headers))
            assert await cache.match(url) is None, headers
        await cache.put(url, Response.new("", status=500))
        assert await cache.match(url) is None
        await cache.put(url, Response.new("", headers={"set-cookie": "a=b", "cache-control": "private=Set-Cookie"}))
        assert "set-cookie" not in (await cache.match(url)).headers
        for asked, response, words in (
            (Request(url, method="POST"), Response.new("x"), "non-GET"), (url, Response.new("x", status=206), "206"),
            (url, Response.new("x", headers={"vary": "*"}), "Vary"),
            (url, Response.new("x" * (kept.MOST_BYTES + 1)), "all that a cache holds"),
        ):
            try:
                await cache.put(asked, response)
            except TypeError as error:
                assert words in str(error)
            else:
                raise AssertionError(words)
        for n in range(5):
            await cache.put(f"http://a.b/{n}", Response.new("x" * 5_000_000))
            assert await cache.match("http://a.b/0")
        there = [n for n in range(5) if await cache.match(f"http://a.b/{n}")]
        assert there == [0, 3, 4], there
    """)


async def test_proxies_are_let_go_of(holds: Any) -> None:
    """As programs do that have made one: of a function, and of bytes, whose buffer they ask for."""
    await holds(
        """
        from pyodide.ffi import create_once_callable, create_proxy
        def add(a, b=1):
            return a + b
        proxy = create_proxy(add)
        assert proxy(1) == 2 and proxy(1, b=2) == 3 and proxy == add and proxy.__name__ == "add"
        assert await self.env.APPLY(proxy, 4) == 5
        proxy.copy().destroy()
        proxy.destroy()
        buffer = create_proxy(b"abc").getBuffer()
        assert bytes(buffer.data) == b"abc"
        buffer.release()
        import js
        pieces = [piece.to_bytes() async for piece in Request("http://a.b", method="POST", body="abc").body]
        assert pieces == [b"abc"]
        thing = object()
        assert create_proxy(thing) is thing and create_once_callable(add)(1) == 2
    """,
        env={"APPLY": _apply},
    )


async def _apply(function: Any, value: Any) -> Any:
    return await function(value)


async def test_what_is_no_json_is_an_error_of_javascripts_too(holds: Any) -> None:
    """For who has imported those."""
    await holds("""
        import json
        from pyodide.ffi import JsException
        for kind in (JsException, ValueError, json.JSONDecodeError):
            try:
                await Request("http://a.b", method="POST", body="{").json()
            except kind as error:
                assert error.name == "SyntaxError" and "line 1" in error.message and "line 1" in str(error)
            else:
                raise AssertionError(kind)
    """)
