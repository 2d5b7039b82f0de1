"""Cloudflare's Python SDK inside a sandbox, name by name: the assertions stand in the tenant's program."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import RpcTarget
from cloister.loader import CodeError, InvalidCode, Loader, TenantError, WorkerCode, WorkerStub
from cloister.loader.http import Request, Response
from cloister.sandbox.guest import moments

Make = Callable[..., WorkerStub]


class Web(RpcTarget):
    """The network, as the host of these tests grants it: it answers with what it was asked."""

    async def fetch(self, resource: Any, **options: Any) -> Any:
        """An answer."""
        asked = Request.received(resource, options)
        if asked.url.endswith("/down"):
            raise OSError("the network is down")
        body = await asked.bytes()
        headers = [*asked.headers, ("x-method", asked.method), ("x-redirect", asked.redirect)]
        return Response(body or b"Hi there!", headers=headers, url=asked.url).sent()


PROGRAM = """
import asyncio
import io
from http import HTTPMethod, HTTPStatus
from workers import *
import workers

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


# Names


async def test_every_public_name_is_there(holds: Any) -> None:
    """Those of `__all__`, the submodules, and no others."""
    await holds("""
        for name in ("Blob BlobEnding BlobValue Body Context DurableObject FetchKwargs FetchResponse File FormData"
                     " FormDataValue Headers JSBody Request RequestInitCfProperties Response WorkerEntrypoint"
                     " WorkflowEntrypoint env fetch handler import_from_javascript patch_env python_from_rpc"
                     " python_to_rpc waitUntil wait_until").split():
            assert name in workers.__all__
            getattr(workers, name)
        raises(AttributeError, "module 'workers' has no attribute 'nothing'", getattr, workers, "nothing")
        import importlib, asgi, wsgi, cloudflare.workers
        for name in "asgi entrypoints rpc types utils workflows wsgi".split():
            importlib.import_module(f"workers.{name}")
        assert asgi is workers.asgi and wsgi is workers.wsgi and cloudflare.workers is workers
        assert workers.entrypoints.DurableObject is DurableObject
        raises(ImportError, "is a module of JavaScript", import_from_javascript, "cloudflare:sockets")
    """)


async def test_headers_are_gone_through_as_fetch_has_it(holds: Any) -> None:
    """By name, in small letters; each cookie for itself. Found they are by any spelling."""
    await holds("""
        given = [("X-B", "1"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("A", "2"), ("x-b", "3")]
        response = Response("x", headers=given)
        kind = ("content-type", "text/plain;charset=UTF-8")
        cookies = [("set-cookie", "a=1"), ("set-cookie", "b=2")]
        assert list(response.headers.items()) == [("a", "2"), kind, *cookies, ("x-b", "1, 3")]
        assert list(response.headers) == ["a", "content-type", "set-cookie", "x-b"]
        assert response.headers.getSetCookie() == ["a=1", "b=2"] and Headers().getSetCookie() == []
        assert response.headers["X-b"] == "1, 3" and response.headers.get("A") == "2"
    """)


async def test_headers_are_a_map_and_repeated_ones_as_the_date_has_it(holds: Any) -> None:
    """Web frameworks ask whether they are one. Commas are kept in a value from 2026-02-17 on."""
    body = """
        from collections.abc import Mapping
        given = [("X-A", "1, 2"), ("x-a", "3"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        headers = Response("x", headers=given).headers
        assert isinstance(headers, Mapping) and dict(headers.items())["x-a"] == "1, 2, 3"
        assert headers.get_all("set-cookie") == ["a=1", "b=2"] and headers.get_all("x-b") is None
        assert headers.get_all("X-a") == EXPECTED
    """
    await holds(body.replace("EXPECTED", '["1, 2", "3"]'), compatibility_date="2026-02-16")
    await holds(body.replace("EXPECTED", '["1, 2, 3"]'), compatibility_date="2026-02-17")


async def test_what_adapters_are_told_is_checked(holds: Any) -> None:
    """Both know the same options."""
    await holds("""
        from workers import asgi, gateway, wsgi
        for adapter in (asgi, wsgi):
            assert issubclass(adapter.Options, gateway.BaseOptions) and adapter.Options().response_init() == {}
            assert adapter.Options(encode_body="manual").response_init() == {"encodeBody": "manual"}
            raises(ValueError, "encode_body must be one of ('automatic', 'manual'), got 'gzip'",
                   adapter.Options, encode_body="gzip")
    """)


async def test_programs_can_ask_what_the_sdk_wraps(worker: Make, code: Callable[..., WorkerCode]) -> None:
    """Its own ask whether something is a binding, a function of another worker's, or the bindings themselves."""
    source = """
    from workers import WorkerEntrypoint, env
    from workers.rpc import _BindingWrapper, _EnvWrapper, _FetcherWrapper, _RpcStubWrapper
    class Default(WorkerEntrypoint):
        def go(self):
            assert isinstance(self.env, _EnvWrapper) and isinstance(env, _EnvWrapper) and _EnvWrapper(env) is env
            assert isinstance(self.env.OTHER, _FetcherWrapper) and isinstance(self.env.OTHER, _BindingWrapper)
            assert isinstance(self.env.CALL, _RpcStubWrapper) and not isinstance(self.env, _BindingWrapper)
            return True
    """
    other = worker("from workers import *\nclass Default(WorkerEntrypoint): ...").get_entrypoint()
    assert await worker(source, env={"OTHER": other, "CALL": print}).get_entrypoint().go()


async def test_values_answer_as_those_of_javascript_would(holds: Any) -> None:
    """Programs convert what they are given, whether or not it needs to be."""
    await holds("""
        import js
        asked = Request("http://a.b", method="POST", body='{"a": {"b": [1, {"c": 2}]}}')
        found = await asked.json()
        assert found.to_py() == {"a": {"b": [1, {"c": 2}]}} and found.a.to_py() == {"b": [1, {"c": 2}]}
        assert type(found.to_py()) is dict and type(found.to_py()["a"]["b"][1]) is dict
        rows = await Response('[{"a": 1}]').json()
        assert rows == [{"a": 1}] and rows.to_py() == [{"a": 1}] and type(rows.to_py()[0]) is dict and rows.length == 1
        assert found.a.b.length == 2 and found.a.b[1].c == 2 and found == {"a": {"b": [1, {"c": 2}]}}
        found.a.b.push(3)
        assert found["a"]["b"] == [1, {"c": 2}, 3] and found.a.b is found.a.b
        buffer = await Response(b"abc").arrayBuffer()
        assert buffer.to_bytes() == bytes(js.Uint8Array.new(buffer)) == b"abc" and type(buffer.to_bytes()) is bytes
        assert buffer.byteLength == 3 and buffer.to_memoryview()[0] == ord("a") and memoryview(buffer)[1] == ord("b")
    """)


async def test_what_the_sdk_keeps_to_itself_is_not_wrapped_twice(holds: Any) -> None:
    """Some programs look below `env`, where Cloudflare's has another object."""
    await holds("""
        from workers._workers import _EnvWrapper
        assert isinstance(self.env, _EnvWrapper) and not isinstance(self.env._env, _EnvWrapper)
    """)


async def test_env_is_the_workers_bindings_everywhere(holds: Any) -> None:
    """As attributes and items; a name that is missing is an attribute that is."""
    await holds(
        """
        assert env.PLAN == self.env.PLAN == env["PLAN"] == "pro" and not hasattr(env, "NOTHING")
        assert env.SETTINGS.a.b == 1 and env.SETTINGS["a"]["b"] == 1
        with patch_env({"A": 1}, B=2):
            assert (env.A, env.B) == (1, 2) and not hasattr(env, "PLAN")
        assert env.PLAN == "pro" and not hasattr(env, "A")
        """,
        env={"PLAN": "pro", "SETTINGS": {"a": {"b": 1}}},
    )


# Responses


async def test_a_response_says_what_it_was_made_of(holds: Any) -> None:
    """Status, phrase, content type, body, headers; and what it is not made of."""
    await holds("""
        told = Response("test123", status=HTTPStatus.NOT_FOUND)
        assert (told.status, told.status_text, told.ok, told.headers["Content-Type"]) == (
            404, "Not Found", False, "text/plain;charset=UTF-8")
        assert await told.text() == "test123" and told.body_used
        assert Response(None).body is None and "content-type" not in Response(b"x").headers
        for wrong in ({}, [], 1, bytearray(), Blob("x")):
            raises(TypeError, f"Unsupported type in Response: {type(wrong).__name__}", Response, wrong)
        again = Response(Response("a", status=201, status_text="Made"))
        assert (again.status, again.status_text, await again.text()) == (201, "Made", "a")
        raises(ValueError, "Expected no options", Response, Response("a"), status=200)
        raises(TypeError, "Received unexpected type for headers argument", Response, "a", headers=1)
        assert repr(Response.json({})) == ("Response(status=200, status_text='OK', content_type='application/json')")
        several = [("x-a", "1"), ("x-a", "2"), ("set-cookie", "b=1"), ("set-cookie", "c=2")]
        headers = Response("", headers=several).headers
        assert headers["X-A"] == "1, 2" and headers.get_all("Set-Cookie") == ["b=1", "c=2"] and headers["x"] is None
        first = Response("x", headers={"a": "b"})
        first.headers["a"] = "changed"
        assert first.headers["a"] == "b" and first.js_object is first
    """)


async def test_a_response_is_json_both_ways(holds: Any) -> None:
    """Made by the class, read by the object."""
    await holds("""
        made = Response.json({"obj": {"field": 123}}, status=HTTPStatus.CREATED, headers={"x-a": "b"})
        assert made.status == 201 and made.headers["content-type"] == "application/json" and made.headers["x-a"] == "b"
        assert await made.clone().text() == '{"obj": {"field": 123}}'
        read = await made.json()
        assert read["obj"]["field"] == read.obj.field == 123
        assert Response.from_json([], headers={"Content-Type": "x/y"}).headers["content-type"] == "x/y"
        raises(TypeError, "Object of type set is not JSON serializable", Response.json, {1})
    """)


async def test_a_response_is_redirected_cloned_and_given_another_body(holds: Any) -> None:
    """A status that does not redirect is refused before the address is looked at."""
    await holds("""
        assert Response.redirect("https://a.b/c").headers["location"] == "https://a.b/c"
        raises(ValueError, "502", Response.redirect, "", HTTPStatus.BAD_GATEWAY)
        raises(TypeError, "Invalid URL", Response.redirect, "nowhere")
        other = Response("test", status=201, status_text="Created").replace_body("other")
        assert (other.status, other.status_text, await other.text()) == (201, "Created", "other")
        twin = Response("twice")
        assert await twin.clone().text() == await twin.text() == "twice"
        for again in (twin.text, twin.bytes, twin.json):
            try:
                await again()
            except OSError:
                continue
            raise AssertionError("read twice")
        raises(OSError, "500 Internal Server Error", Response("", status=500).raise_for_status)
        assert await Response(b"a").buffer() == b"a" and (await Response("ab").memoryview())[1] == ord("b")
    """)


async def test_a_body_is_read_as_programs_do_that_are_written_after_javascript(holds: Any) -> None:
    """With a reader, piece by piece."""
    await holds("""
        async def pieces():
            yield b"one "
            yield "two"
        reader, data = Response(pieces()).body.getReader(), b""
        while not (result := await reader.read()).done:
            data += result.value.to_bytes()
        assert data == b"one two"
    """)


# Requests and fetch


async def test_a_request_says_what_is_asked(holds: Any) -> None:
    """Method, address, headers, and what else requests have."""
    await holds("""
        asked = Request("https://test.com", method=HTTPMethod.POST, body='{"name": "a"}', headers={"N": 1, "T": True})
        assert asked.method == HTTPMethod.POST == "POST" and asked.url == "https://test.com/"
        assert repr(asked) == "Request(method='POST', url='https://test.com/')"
        assert asked.headers["n"] == "1" and asked.headers["t"] == "true" and asked.cf is None
        assert (asked.redirect, asked.keepalive, asked.signal) == ("follow", False, None)
        again = Request(asked.clone(), headers={"x": "y"}, cf={"colo": "DFW"}, cache="no-store")
        assert (again.method, again.headers["x"], again.cf.colo, again.cache) == ("POST", "y", "DFW", "no-store")
        assert (await asked.json()).name == "a"
        try:
            asked.clone()
        except OSError as error:
            assert str(error) == "Body already used"
        for name in ("credentials", "mode", "referrer", "referrer_policy", "integrity", "destination"):
            assert isinstance(getattr(asked, name), str)
        raises(TypeError, "cannot have a body", Request, "https://a.b", body="x")
    """)


async def test_fetch_asks_the_network_that_was_granted(holds: Any) -> None:
    """Options are keywords; a failure is an OSError."""
    await holds("""
        answer = await fetch("https://example.com/sub", method="POST", body="ä", headers={"A": "b"}, redirect="manual")
        assert await answer.text() == "ä" and answer.url == "https://example.com/sub" and answer.headers["a"] == "b"
        assert answer.headers["x-method"] == "POST" and answer.headers["x-redirect"] == "manual"
        assert await (await fetch(Request("https://example.com/"), foobarbaz=42)).text() == "Hi there!"
        for wrong, kind in ((fetch("https://example.com/down"), OSError), (fetch("nowhere"), TypeError)):
            try:
                await wrong
            except kind:
                continue
            raise AssertionError("it was fetched")
        try:
            await fetch("https://example.com/", {"headers": {}})
        except TypeError as error:
            assert str(error) == "fetch() takes 1 positional argument but 2 were given"
    """)


# Blobs and forms


async def test_blobs_hold_bytes_and_say_of_which_type(holds: Any) -> None:
    """Made of text, bytes, views and blobs; a single blob hands its type on."""
    await holds("""
        blob = Blob(["te", b"s", memoryview(b"t")], content_type="application/json")
        assert (blob.size, blob.content_type, await blob.text(), await blob.bytes()) == (
            4, "application/json", "test", b"test")
        assert await blob.slice(1, 3).text() == "es" and blob.js_object.type == "application/json"
        assert Blob(blob).content_type == "application/json" and Blob([blob]).content_type == ""
        assert Blob(blob, content_type="other/type").content_type == "other/type"
        raises(TypeError, "Don't know how to handle <class 'int'> for Blob()", Blob, [1])
        assert await Blob("a\\r\\nb", endings=BlobEnding.NATIVE).text() == "a\\nb"
        file = File("my file", filename="test.txt", content_type="text/plain", last_modified=5)
        assert (file.name, file.content_type, file.last_modified) == ("test.txt", "text/plain", 5)
        assert await (await Request("http://a.b", body="foobar", method="POST").blob()).text() == "foobar"
        assert (await Response("x", headers={"content-type": "x/y"}).blob()).content_type == "x/y"
    """)


async def test_forms_hold_names_with_several_values(holds: Any) -> None:
    """In order; numbers become text, a blob with a name a file."""
    await holds("""
        form = FormData({"key": "foobar"})
        form.append("key", "another")
        form.append("key2", 5)
        assert form["key"] == "foobar" and form["key2"] == "5" and "key" in form and "none" not in form
        assert list(form) == list(form.keys()) == ["key", "key", "key2"] and len(form) == 3
        assert set(form.items()) == {("key", "foobar"), ("key", "another"), ("key2", "5")}
        assert form.get_all("key") == ["foobar", "another"] and list(FormData(form).values())[1] == "another"
        form["key"] = "only"
        assert form.get_all("key") == ["only"]
        raises(TypeError, "append", form.__setitem__, "key", ["a"])
        raises(KeyError, "none", form.__delitem__, "none")
        del form["key"]
        form.append("file", Blob("print(42)", content_type="text/python"), "blob.py")
        assert isinstance(form["file"], File) and form["file"].name == "blob.py"
        form.delete("file")
        assert list(form) == ["key2"]
    """)


async def test_forms_are_bodies_and_are_read_from_them(holds: Any) -> None:
    """Multipart and urlencoded, files included; what is neither is refused."""
    await holds("""
        form = FormData({"field": 'va"lue', "ü": "ä"})
        form.append("metadata", Blob(b"\\x00\\r\\n--x", "application/json"), 'meta"data.json')
        sent = Response(form)
        assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
        read = await sent.form_data()
        assert list(read) == ["field", "ü", "metadata"] and read["field"] == 'va"lue' and read["ü"] == "ä"
        assert read["metadata"].name == 'meta"data.json' and await read["metadata"].bytes() == b"\\x00\\r\\n--x"
        assert read["metadata"].content_type == "application/json"
        kind = {"content-type": "application/x-www-form-urlencoded"}
        plain = await Request("http://a.b", method="POST", body="a=1&a=2&b=%C3%A4+", headers=kind).formData()
        assert plain.get_all("a") == ["1", "2"] and plain["b"] == "ä "
        for wrong in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=zz"):
            try:
                await Request("http://a.b", method="POST", body="x", headers={"content-type": wrong}).form_data()
            except TypeError:
                continue
            raise AssertionError(wrong)
        echo = await (await fetch("https://a.b/", method="POST", body=form)).form_data()
        assert echo["field"] == 'va"lue'
    """)


# Between workers


SERVICE = """
import asyncio
from workers import Blob, File, FormData, Request, Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def identity(self, value):
        return value

    def kinds(self, *values):
        return [type(value).__name__ for value in values]

    async def caller(self, function):
        return await function()

    def named(self, subject, options):
        return [subject, options.color, options["size"]]

    def usual(self, subject, color="red"):
        return [subject, color]

    async def handle(self, message):
        assert isinstance(message, (Request, Response))
        return message

    async def content(self, blob):
        return [type(blob).__name__, await blob.text(), blob.content_type, getattr(blob, "name", None)]

    async def form(self, form):
        return [list(form.items())[0], await form["b"].text()]

    def counter(self):
        count = 0
        def next_one():
            nonlocal count
            count += 1
            return count
        return next_one

    def fails(self):
        raise ValueError("no")

    async def scheduled(self, controller, env, ctx):
        assert (controller.cron, controller.scheduledTime) == ("* * * * 30", 1000), vars(controller)
        assert env is None and ctx is None
        self.env.SEEN.append(controller.cron)

    async def fetch(self):
        return Response("fetched")
"""


async def test_a_message_comes_back_with_its_body(loader: Loader, code: Callable[..., WorkerCode]) -> None:
    """To the worker that has sent it: from another entrypoint of its own, in the same sandbox."""
    source = """
    from workers import Request, Response, WorkerEntrypoint
    class Other(WorkerEntrypoint):
        async def read(self, message): return await message.text()
        async def give(self, message): return message
    class Default(WorkerEntrypoint):
        async def go(self):
            other, long = self.env.OTHER, "x" * 700_000
            sent = Response("short", status=201)
            found = [await other.read(sent), sent.body_used]
            for body in ("short", "", long):
                back = await other.give(Response(body, status=201, headers={"a": "b"}))
                found += [back.status, back.headers["a"], await back.text() == body]
            asked = await other.give(Request("http://a.b/", method="POST", body="asked"))
            return [*found, asked.method, await asked.text(), (await other.give(Response(None, status=204))).body]
    """

    def made() -> WorkerCode:
        return code(source, env={"OTHER": loader.get("itself", made).get_entrypoint("Other")})

    one = [201, "b", True]
    expected = ["short", True, *one, *one, *one, "POST", "asked", None]
    assert await loader.get("itself", made).get_entrypoint().go() == expected


async def test_values_cross_between_workers(worker: Make, code: Callable[..., WorkerCode]) -> None:
    """Each kind arrives as it is said to, also what only the SDK knows."""
    service = worker(SERVICE, env={"SEEN": []}).get_entrypoint()
    source = """
    import datetime
    from http import HTTPMethod
    from workers import *
    class Default(WorkerEntrypoint):
        async def go(self):
            other = self.env.SERVICE
            for value in ("test", [1, 2, 3], {"key": 42}, 42, 1.2345, False, True, None, {1, 2}):
                assert await other.identity(value) == value
            got = await other.identity({"a": {"b": None}, 1: "one"})
            assert got.a.b is None and got["1"] == "one" and isinstance(got, dict)
            now = datetime.datetime.now()
            assert await other.identity(now) == now and (await other.identity([now]))[0] == now
            assert bytes(await other.identity(b"binary")) == b"binary"
            assert await other.kinds(Response("a"), Request("http://a.b"), Blob("x"), File("x", "y"), FormData()) == [
                "Response", "Request", "Blob", "File", "FormData"]
            assert await other.content(File(["a", "b"], "n.txt", "text/plain")) == ["File", "ab", "text/plain", "n.txt"]
            form = FormData({"a": "1"})
            form.append("b", Blob("blob"))
            assert await other.form(form) == [["a", "1"], "blob"]
            assert await (await other.handle(Response("this"))).text() == "this"
            asked = await other.handle(Request("https://test.com", method=HTTPMethod.POST))
            assert isinstance(asked, Request) and asked.method == "POST"
            count = 0
            def inc():
                nonlocal count
                count += 1
                return count
            assert [await other.caller(inc), await other.caller(inc)] == [1, 2]
            counter = await other.counter()
            assert counter and [await counter(), await counter()] == [1, 2]
            for wrong in (object(), complex(1), range(3)):
                try:
                    await other.identity(wrong)
                except Exception as error:
                    assert "cannot be sent" in str(error)
                else:
                    raise AssertionError(wrong)
            from pyodide.ffi import JsException
            for call in (other.fails(), other.nothing()):
                try:
                    await call
                except (JsException, TypeError, ValueError) as error:
                    seen = str(error)
                    assert "no" in seen or "Method nothing does not exist" in seen
            assert await (await other.fetch("http://example.com/", method="POST", body="x")).text() == "fetched"
            assert python_to_rpc({1: [b"x"]}) == {"1": [b"x"]} and python_from_rpc(got) is got
            for wrong in ((1,), bytearray(), [(1,)]):
                try:
                    python_to_rpc(wrong)
                except TypeError as error:
                    assert "cannot be sent over RPC." in str(error)
    """
    await worker(source, env={"SERVICE": service}).get_entrypoint().go()


async def test_arguments_by_name_are_one_map_for_who_has_no_such_names(worker: Make) -> None:
    """As JavaScript passes them; who has the names gets them."""
    service = worker(SERVICE).get_entrypoint()
    assert await service.named("a", color="red", size=3) == ["a", "red", 3]
    assert await service.usual("a", color="blue") == ["a", "blue"]
    with pytest.raises(TenantError, match="unexpected keyword argument"):
        await service.usual("a", "b", size=3)


async def test_a_schedule_is_told_to_a_worker(worker: Make) -> None:
    """By the host, and by another worker, which learns how it went."""
    seen = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def scheduled(self, controller, env, ctx):
            assert (controller.cron, controller.scheduledTime) == ("* * * * 30", 1000)
            assert env is None and ctx is None
    """
    service = worker(seen).get_entrypoint()
    assert await service.handle("scheduled", {"cron": "* * * * 30", "scheduledTime": 1000}) == {"outcome": "ok"}
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            return (await self.env.SERVICE.scheduled(scheduledTime=1000, cron="* * * * 30")).outcome
    """
    assert await worker(source, env={"SERVICE": service}).get_entrypoint().go() == "ok"
    with pytest.raises(TenantError, match="AssertionError"):
        await service.handle("scheduled", {"cron": "other"})


async def test_a_mail_is_decided_about(worker: Make) -> None:
    """The worker says what is to be done with it, and the host is told. What is no mail is refused in words."""
    source = """
    import js
    from workers import WorkerEntrypoint, import_from_javascript
    class Default(WorkerEntrypoint):
        async def email(self, message, env, ctx):
            assert message.from_ == getattr(message, "from") == "ann@a.example" and message.to == "bob@b.example"
            assert (message.headers.get("subject"), message.rawSize) == ("long subject", 43)
            assert (await js.Response.new(message.raw).arrayBuffer()).to_bytes().endswith(b"body")
            headers = js.Headers.new()
            headers.set("x-by", "worker")
            await message.forward("carl@c.example", headers)
            EmailMessage = import_from_javascript("cloudflare:email").EmailMessage
            await message.reply(EmailMessage.new("bob@b.example", "ann@a.example", "later"))
            message.setReject("full")
    """
    raw = b"Subject: long\r\n subject\r\nBad Name: \r\n\r\nbody"
    mail = {"from": "ann@a.example", "to": "bob@b.example", "raw": raw}
    entry = worker(source).get_entrypoint()
    assert await entry.handle("email", mail) == {
        "rejected": "full",
        "forwarded": [{"to": "carl@c.example", "headers": [["x-by", "worker"]]}],
        "replied": [{"from": "bob@b.example", "to": "ann@a.example", "raw": b"later"}],
    }
    with pytest.raises(TenantError, match="a message has `from`, `to` and `raw`"):
        await entry.handle("email", {"from": "ann@a.example"})


async def test_what_fetch_gives_may_have_to_be_awaited_still(worker: Make) -> None:
    """`return fetch(request)`, as where that is a promise. What the host says of the request goes along."""
    web = worker("""
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return Response.json([request.url, request.cf.country, await request.text()])
    """).get_entrypoint()
    older = (
        "from workers import fetch\nasync def on_fetch(request): return fetch(request, method='POST', body=[1, True])"
    )
    entry = worker(older, global_outbound=web).get_entrypoint()
    answer = await entry.fetch("https://a.b/c", cf={"country": "PT"})
    assert await answer.json() == ["https://a.b/c", "PT", "1,true"]
    with pytest.raises(ValueError, match="cf is a map of plain values"):
        await entry.fetch("https://a.b/c", cf={"country": {object()}})


# How a program is found


@pytest.mark.parametrize(
    ("handlers", "event", "subject"),
    [
        ("async def on_fetch(request, env, ctx):\n    return Response(request.url + env.A)", "fetch", None),
        ("def on_fetch(request, env):\n    return Response(request.url + env.A)", "fetch", None),
        ("@handler\nasync def on_fetch(request):\n    return Response(request.url + 'x')", "fetch", None),
        ("async def on_scheduled(controller, env):\n    assert controller.cron == env.A", "scheduled", {"cron": "x"}),
        ("async def test(ctrl, env):\n    assert env.A == 'x'", "test", {}),
        ("async def on_fetch(): ...\nasync def test(ctrl, env):\n    assert env.A == 'x'", "test", {}),
    ],
)
async def test_functions_of_an_older_form_are_handlers(worker: Make, handlers: str, event: Any, subject: Any) -> None:
    """With as many of their arguments as they want."""
    entry = worker(f"from workers import Response, handler\n{handlers}", env={"A": "x"}).get_entrypoint()
    if event == "fetch":
        assert await (await entry.fetch("http://a.b/")).text() == "http://a.b/x"
    else:
        await entry.handle(event, subject)


async def test_the_compatibility_date_says_whether_functions_are_handlers(worker: Make) -> None:
    """From a date on they are not; before it they are, and then there may be no class beside them."""
    older = "from workers import Response\ndef on_fetch(): return Response('older')\n"
    both = older + (
        "from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n"
        "    def fetch(self): return Response('newer')\n"
    )
    for options, source, text in (
        ({}, older, "older"),
        ({}, both, "newer"),
        ({"compatibility_date": "2025-08-13"}, older, "older"),
        ({"compatibility_date": "2025-08-14"}, both, "newer"),
        ({"compatibility_date": "2026-01-01", "compatibility_flags": ("disable_python_no_global_handlers",)}, older,
         "older"),
    ):  # fmt: skip
        assert await (await worker(source, **options).get_entrypoint().fetch("http://a.b/")).text() == text
    with pytest.raises(Exception, match="no such entrypoint: Default"):
        await worker(older, compatibility_date="2025-08-14").get_entrypoint().fetch("http://a.b/")
    with pytest.raises(CodeError, match="Cannot define multiple default entrypoints"):
        await worker(both, compatibility_date="2025-08-13").get_entrypoint().fetch("http://a.b/")
    with pytest.raises(TenantError, match='does not export a handler named "on_scheduled"'):
        await worker(older).get_entrypoint().handle("scheduled", {})


@pytest.mark.parametrize("date", ["2025", "2025-13-01", "20250814", "soon"])
def test_a_compatibility_date_is_a_date(code: Callable[..., WorkerCode], date: str) -> None:
    """Anything else would decide by chance."""
    with pytest.raises(InvalidCode, match="compatibility_date"):
        code("", compatibility_date=date)
    with pytest.raises(InvalidCode, match="has both"):
        code("", compatibility_flags=("python_workflows", "disable_python_workflows"))


async def test_entrypoints_are_the_classes_that_can_be_seen(worker: Make) -> None:
    """Those in `__all__` or without an underscore, imported ones too, and each call has an object of its own."""
    source = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Mixin:
        def mixed(self): return 1234
    class _Base(WorkerEntrypoint):
        def shared(self): return "shared"
    class Named(_Base, Mixin):
        counter = 0
        def __init__(self, x, y):
            self.x = x
        def count(self):
            self.counter += 1
            return self.counter
    """
    stub = worker(source)
    named = stub.get_entrypoint("Named")
    assert [await named.count(), await named.count(), await named.mixed(), await named.shared()] == [
        1, 1, 1234, "shared",
    ]  # fmt: skip
    for name in ("_Base", "Mixin", None):
        with pytest.raises(Exception, match="no such entrypoint"):
            await stub.get_entrypoint(name).shared()
    for name in ("_private", "ctx", "env"):
        with pytest.raises(Exception, match=r"does not exist|not a public name"):
            await getattr(named, name)()


async def test_errors_are_values_too(worker: Make) -> None:
    """They cross to another worker and come back, of their class where Python has one of that name."""
    other = worker("""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def echo(self, value): return value
        def about(self, error): return [type(error).__name__, str(error)]
        def make(self): return {"all": [KeyError("k"), ValueError("v")]}
    """).get_entrypoint()
    source = """
    from js import Error
    from workers import WorkerEntrypoint
    class Mine(Exception): ...
    class Default(WorkerEntrypoint):
        async def go(self):
            mine = Mine("m")
            found = [await self.env.OTHER.about(error) for error in (TypeError("t"), Error.new("e"), mine)]
            made = (await self.env.OTHER.make())["all"]
            return [*found, [repr(error) for error in made], await self.env.ECHO(mine) is mine]
    """
    assert await worker(source, env={"OTHER": other, "ECHO": lambda value: value}).get_entrypoint().go() == [
        ["TypeError", "t"], ["RemoteError", "Error: e"], ["RemoteError", "Mine: m"],
        ["KeyError('k')", "ValueError('v')"], True,
    ]  # fmt: skip


async def test_a_function_that_comes_home_is_awaited_like_any_other(worker: Make) -> None:
    """Whoever gets one need not know whose it is."""
    other = worker("""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def echo(self, value): return value
        async def call(self, function, value): return await function(value)
    """).get_entrypoint()
    source = """
    from workers import WorkerEntrypoint
    def add(n): return n + 1
    class Default(WorkerEntrypoint):
        async def go(self):
            home = await self.env.OTHER.echo(add)
            with home.dup() as again:
                found = [await home(1), await again(2), home == add, len({home, add})]
                return [*found, await self.env.OTHER.call(home, 3), (await self.env.OTHER.echo(home)) == home]
    """
    assert await worker(source, env={"OTHER": other}).get_entrypoint().go() == [2, 3, True, 1, 4, True]


async def test_a_body_that_streams_can_be_cloned(holds: Any) -> None:
    """Each is read to its end, in whatever order; and one that nobody reads on is no hindrance."""
    await holds("""
        left = []
        async def pieces():
            try:
                for n in range(4):
                    yield b"%d" % n
            finally:
                left.append("over")
        one = Response(pieces())
        other = one.clone()
        first = await anext(one.body)
        assert await other.text() == "0123"
        assert first + b"".join([piece async for piece in one.body]) == b"0123"
        one = Response(pieces())
        assert await anext(one.body) == b"0" and one.body_used
        try:
            one.clone()
        except OSError as error:
            assert "already used" in str(error)
        one = Request("http://a.b", method="POST", body=pieces())
        other = one.clone()
        await other.body.aclose()
        assert await one.text() == "0123"
        long = Response(b"x" * 700_000)
        assert [len(await one.bytes()) for one in (long.clone(), long)] == [700_000] * 2
    """)


async def test_what_stubs_have_for_annotations_can_be_imported(holds: Any) -> None:
    """So that a program that is checked runs as well."""
    await holds("""
        from workers import DurableObjectState, JsDict, StepContext, WebSocket, WorkflowEvent, WorkflowStep
        async def run(event: WorkflowEvent, step: WorkflowStep, ctx: StepContext, ws: WebSocket | None) -> JsDict: ...
        assert "WorkflowStep" not in workers.__all__ and isinstance(WorkflowStep, type)
    """)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"kind": "t"}, "takes no kind"), ({}, "has no event type"), ({"type": "t", "within": 5}, "takes no within")],
)
async def test_a_wait_without_a_type_or_with_more_is_an_error(given: dict[str, Any], words: str) -> None:
    """And never a wait for something else."""
    with pytest.raises(TypeError, match=words):
        await moments.wait_for_event(None, "w", **given)  # type: ignore[arg-type]
