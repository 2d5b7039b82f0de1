"""What Cloudflare's documentation shows in Python, written anew: each program runs as it would there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine
from cloister.engine.testing import VirtualClock
from cloister.ipc import RpcTarget
from cloister.loader import CodeError, Loader, WorkerCode, wrap_workflow_binding
from cloister.loader.dispatch import create_dynamic_workflow_entrypoint
from cloister.loader.http import Request, Response

Serve = Callable[..., Any]


class Web(RpcTarget):
    """The network of these programs: JSON at one address, text at any other."""

    async def fetch(self, resource: Any, **options: Any) -> Any:
        """An answer."""
        asked = Request.received(resource, options)
        if "json" in asked.url:
            return Response(b'{"title": "todo"}', headers={"content-type": "application/json"}, url=asked.url).sent()
        headers = {"content-type": "text/html", "x-old": "1", "x-asked": dict(asked.headers).get("x-custom", "")}
        return Response(f"{asked.method} {await asked.text()}", headers=headers, url=asked.url).sent()


@pytest.fixture
def serve(loader: Loader, request: pytest.FixtureRequest) -> Serve:
    """A program to the default entrypoint of a new tenant."""

    def make(source: str, modules: dict[str, str] | None = None, **env: Any) -> Any:
        files = {"main.py": textwrap.dedent(source), **(modules or {})}
        code = WorkerCode(main_module="main.py", modules=files, env=env, global_outbound=Web())
        return loader.get(f"published {request.node.name}", lambda: code).get_entrypoint()

    return make


async def answered(entry: Any, url: str = "https://w.example/", **options: Any) -> tuple[int, str, dict[str, str]]:
    response = await entry.fetch(url, **options)
    return response.status, await response.text(), {name.lower(): value for name, value in response.headers}


async def test_the_smallest_worker(serve: Serve) -> None:
    """Four lines; a plain function will do, with or without the request."""
    for signature in ("async def fetch(self, request)", "def fetch(self, request)", "async def fetch(self)"):
        entry = serve(f"""
        from workers import WorkerEntrypoint, Response
        class Default(WorkerEntrypoint):
            {signature}:
                return Response("Hello World!")
        """)
        assert (await answered(entry))[:2] == (200, "Hello World!")


async def test_a_url_is_taken_apart(serve: Serve) -> None:
    """With the standard library."""
    entry = serve("""
    from urllib.parse import parse_qs, urlparse
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            url = urlparse(request.url)
            params = parse_qs(url.query)
            if "name" in params:
                return Response("Hello there, {name}".format(name=params["name"][0]))
            return Response("" if url.path == "/favicon.ico" else "Hello world!")
    """)
    assert (await answered(entry, "https://w.example/?name=Ann"))[1] == "Hello there, Ann"
    assert (await answered(entry, "https://w.example/favicon.ico"))[1] == ""


async def test_json_is_read_as_attributes_and_as_items(serve: Serve) -> None:
    """The documentation has the one, the SDK the other."""
    entry = serve("""
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            data = await request.json()
            return Response("Hello, {name}{again}".format(name=data.name, again=data["name"]))
    """)
    assert (await answered(entry, method="POST", body='{"name": "Ann"}'))[1] == "Hello, AnnAnn"


async def test_modules_lie_beside_the_main_one(serve: Serve) -> None:
    """Without a prefix; one with the name of a folder that is not there is explained."""
    entry = serve("""
    import module
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def fetch(self, request):
            return Response(module.__name__)
    """, {"module.py": ""})  # fmt: skip
    assert (await answered(entry))[1] == "module"


async def test_an_import_of_the_folder_itself_is_explained(serve: Serve) -> None:
    """As it is there."""
    with pytest.raises(CodeError) as refused:
        await answered(serve("from src.module import x"))
    assert "leave `src.` out" in "".join(refused.value.__notes__)


async def test_logs_and_work_after_the_answer(serve: Serve) -> None:
    """The console and logging, and `waitUntil`."""
    entry = serve("""
    import logging
    from js import console
    from workers import Response, WorkerEntrypoint
    done = []
    class Default(WorkerEntrypoint):
        async def later(self):
            done.append("done")
        async def fetch(self, request):
            console.log("console")
            logging.getLogger(__name__).error("error")
            self.ctx.waitUntil(self.later())
            return Response(",".join(done))
    """)
    assert (await answered(entry))[1] == ""
    assert (await answered(entry))[1] == "done"


async def test_other_places_are_asked_and_their_answers_changed(serve: Serve) -> None:
    """Together, with methods and headers; what comes back is passed on with other headers."""
    entry = serve("""
    import json
    from asyncio import gather
    from http.cookies import SimpleCookie
    from workers import Request, Response, WorkerEntrypoint, fetch

    async def gather_response(response):
        if "application/json" in response.headers["content-type"]:
            return json.dumps(dict(await response.json()))
        return await response.text()

    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            if request.method == "POST":
                both = await gather(fetch("https://a.b/json"), fetch("https://a.b/", method="POST", body="b",
                                                                       headers={"content-type": "x/y"}))
                return Response("|".join(await gather(*(gather_response(one) for one in both))))
            response = await fetch(Request("https://a.b/", headers={"x-custom": "1"}))
            headers = response.headers
            headers["x-hello"] = "Hello"
            headers["x-asked-too"] = headers.get("x-asked")
            del headers["x-old"]
            cookies = SimpleCookie(request.headers["Cookie"] or "")
            text = cookies["__uid"].value if "__uid" in cookies else "none"
            return Response(response.body, status=203, headers={**dict(headers.items()), "x-uid": text})
    """)
    assert (await answered(entry, method="POST"))[1] == '{"title": "todo"}|POST b'
    status, text, headers = await answered(entry, headers={"cookie": "__uid=7"})
    assert (status, text) == (203, "GET ")
    assert {name: headers.get(name) for name in ("x-hello", "x-asked-too", "x-old", "x-uid")} == {
        "x-hello": "Hello", "x-asked-too": "1", "x-old": None, "x-uid": "7",
    }  # fmt: skip


async def test_a_proxy_after_javascript(serve: Serve) -> None:
    """Requests and responses are made of others, and their headers changed in place."""
    entry = serve("""
    from js import Headers, Object, Request, Response, URL, fetch
    from pyodide.ffi import to_js
    from workers import WorkerEntrypoint

    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            url = URL.new(request.url)
            target = url.searchParams.get("apiurl")
            if target is None:
                return Response.new("", headers=Headers.new({"Allow": "GET"}))
            if request.method == "OPTIONS":
                return Response.new(None, to_js({"status": 405}, dict_converter=Object.fromEntries))
            asked = Request.new(target, request)
            response = await fetch(asked)
            response = Response.new(response.body, response)
            response.headers.set("Access-Control-Allow-Origin", url.origin)
            response.headers.append("Vary", "Origin")
            return response
    """)
    status, text, headers = await answered(entry, "https://w.example/?apiurl=https://a.b/c", method="PUT", body="x")
    assert (status, text) == (200, "PUT x")
    assert (headers["access-control-allow-origin"], headers["vary"]) == ("https://w.example", "Origin")
    assert (await answered(entry, "https://w.example/?apiurl=https://a.b/c", method="OPTIONS"))[0] == 405


async def test_a_form_is_read(serve: Serve) -> None:
    """With its fields, and a signature that takes no shorter for being wrong."""
    entry = serve("""
    import base64, hashlib, hmac
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            kind = request.headers["content-type"] or ""
            if "form" in kind:
                form = await request.form_data()
                return Response.json({key: value for key, value in form.items()})
            given = request.headers["authorization"] or ""
            wanted = base64.b64encode(hmac.digest(self.env.SECRET.encode(), b"x", hashlib.sha256)).decode()
            if not hmac.compare_digest(given, wanted):
                return Response("Unauthorized", status=401, headers={"WWW-Authenticate": "Basic"})
            return Response.redirect("https://a.b/", 301)
    """, SECRET="secret")  # fmt: skip
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert (await answered(entry, method="POST", body="a=1&b=2", headers=kind))[1] == '{"a": "1", "b": "2"}'
    assert (await answered(entry))[0] == 401
    right = {"authorization": "xVCRlAKThDTmI2W8t5OFWTtkROvlx2CIPRm2J31U1Wk="}
    status, _, headers = await answered(entry, headers=right)
    assert (status, headers.get("location")) in {(401, None), (301, "https://a.b/")}


# Workflows


@pytest.fixture
def flow(loader: Loader, path: Path, clock: VirtualClock, runner: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A program with a workflow and a worker that has it as `MY_WORKFLOW`, under a clock that a test moves."""
    engine = Engine(path, clock=clock)
    runner.run(engine.__aenter__())
    tenant = f"flow {request.node.name}"

    class Flow:
        def open(self, source: str, entrypoint: str = "MyWorkflow") -> Any:
            def load(_: Any = None) -> Any:
                return loader.get(tenant, lambda: self.code)

            entry = create_dynamic_workflow_entrypoint(lambda _: load().get_entrypoint(entrypoint))
            self.binding = wrap_workflow_binding(engine.workflow("flow", entry), {"tenant_id": tenant})
            env = {"MY_WORKFLOW": self.binding}
            modules = {"main.py": textwrap.dedent(source)}
            self.code = WorkerCode(main_module="main.py", modules=modules, env=env, compatibility_date="2026-04-21")
            return load().get_entrypoint()

        async def ends(self, instance_id: str, *, meanwhile: float = 60) -> dict[str, Any]:
            """Its end; for as long as it takes, `meanwhile` seconds pass from time to time."""
            instance = await self.binding.get(instance_id)
            while (status := await instance.status())["status"] not in {"complete", "errored"}:
                await clock.advance(meanwhile)
            return status

    yield Flow()
    runner.run(engine.__aexit__(None, None, None))


STARTER = """
from js import Object
from pyodide.ffi import to_js
from urllib.parse import urlparse
from workers import Response, WorkerEntrypoint, WorkflowEntrypoint
from workers.workflows import NonRetryableError
"""


async def test_a_workflow_is_created_and_looked_at_from_a_worker(flow: Any) -> None:
    """With options made for JavaScript, as a map, by name, in batches; found by id; sent an event."""
    entry = flow.open(
        STARTER
        + """
class MyWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        @step.do("first")
        async def first():
            return {"key": event["payload"].get("key"), "id": event["instanceId"]}
        found = await first()
        got = await step.wait_for_event("wait", "go", timeout="1 hour")
        return [found["key"], found.id == event.instanceId, got["payload"]["ok"], got["type"]]

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        path = urlparse(request.url).path
        if path == "/start":
            made = await self.env.MY_WORKFLOW.create(to_js({"id": "one", "params": {"key": "value"}},
                                                           dict_converter=Object.fromEntries))
            second = await self.env.MY_WORKFLOW.create({"id": "two", "params": {"key": 2}})
            third = await self.env.MY_WORKFLOW.create(id="three")
            batch = await self.env.MY_WORKFLOW.create_batch([{"id": "four"}])
            batch += await self.env.MY_WORKFLOW.createBatch(to_js([{"id": "five"}]))
            return Response.json([made.id, second.id, third.id, *(one.id for one in batch)])
        instance = await self.env.MY_WORKFLOW.get(path.rpartition("/")[2])
        if "/go" in path:
            await instance.send_event({"type": "go", "payload": {"ok": True}})
        status = await instance.status()
        return Response.json({"status": status.status, "same": status["status"] == status.status})
"""
    )
    assert (await answered(entry, "https://a.b/start"))[1] == '["one", "two", "three", "four", "five"]'
    for instance_id, key in (("one", "value"), ("two", 2), ("three", None)):
        assert '"same": true' in (await answered(entry, f"https://a.b/go/{instance_id}"))[1]
        assert (await flow.ends(instance_id, meanwhile=0))["output"] == [key, True, True, "go"]


async def test_a_graph_of_steps_in_both_of_its_forms(flow: Any) -> None:
    """By the names of parameters, and by a list; together or one after the other; with context and configuration."""
    flow.open(
        STARTER
        + """
class MyWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        @step.do("dependency_1")
        async def dep_1():
            return "one"
        @step.do("dependency 2")
        async def dep_2():
            return ("two", b"2")
        @step.do(concurrent=True)
        async def my_step(dependency_1, ctx=None):
            return f"{dependency_1} {ctx and ctx['step']['name']}"
        @step.do("final step", depends=[dep_1, dep_2], concurrent=True)
        async def final(res1=None, res2=None):
            return [res1, res2[0], bytes(res2[1]) == b"2"]
        @step.do("configured", config={"retries": {"limit": 1, "delay": "10 seconds"}, "timeout": "5 minutes"})
        async def flaky(ctx):
            if int(ctx["attempt"]) == 1:
                raise ValueError("once more")
            return ctx.attempt
        await step.sleep("a day", "1 day")
        return [await my_step(), await final(), await flaky()]
"""
    )
    await flow.binding.create(id="x")
    assert (await flow.ends("x"))["output"] == ["one my_step", ["one", "two", True], 2]


async def test_errors_of_steps_are_caught_by_their_kinds(flow: Any) -> None:
    """Those that the documentation promises, and one that is not tried again."""
    flow.open(
        STARTER
        + """
class MyWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        seen, tries = [], []
        @step.do("type", config={"retries": {"limit": 0, "delay": 0}})
        async def wrong_type():
            raise TypeError("t")
        @step.do("hopeless")
        async def hopeless():
            tries.append(1)
            raise NonRetryableError("n")
        try:
            await wrong_type()
        except TypeError as error:
            seen.append(str(error))
        try:
            await hopeless()
        except NonRetryableError:
            seen.append(len(tries))
        except Exception:
            seen.append("other")
        raise ValueError(repr(seen))
"""
    )
    await flow.binding.create(id="x")
    status = await flow.ends("x")
    assert status["status"] == "errored"
    assert status["error"] == {"name": "ValueError", "message": "['TypeError: t', 1]"}
