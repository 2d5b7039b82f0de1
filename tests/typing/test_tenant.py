"""What tenants write against is typed: an editor knows it, and a checker finds what is wrong with a program."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cloister.sandbox.guest import workers

ROOT = Path(__file__).parent.parent.parent
STUBS = ROOT / "sandbox/stubs"
RIGHT = """
from datetime import timedelta
from typing import Any

import asgi
from js import JSON, WebSocketPair, caches
from pyodide.ffi import JsException, to_js
from workers import (
    Blob, Context, DurableObject, DurableObjectState, File, FormData, Headers, HTMLRewriter, Request, Response,
    StepContext, WebSocket, WorkerEntrypoint, WorkflowEntrypoint, WorkflowEvent, WorkflowStep, env, fetch, wait_until,
)
from workers.workflows import NonRetryableError


class Order(WorkflowEntrypoint):
    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> list[Any]:
        @step.do("charge", config={"retries": {"limit": 3, "delay": timedelta(seconds=1)}, "timeout": "1 minute"})
        async def charge(ctx: StepContext) -> dict[str, int]:
            if ctx.attempt > 2:
                raise NonRetryableError("no")
            return {"cents": event.payload.cents}

        @step.do(depends=[charge], concurrent=True)
        async def ship(charged: Any) -> str:
            return str(charged)

        await step.sleep("a while", timedelta(hours=1))
        got = await step.wait_for_event("paid", "payment", timeout="2 days")
        return [await ship(), got.payload, got.timestamp.isoformat(), await step.do("plain", lambda: 5)]


class Counter(DurableObject):
    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.blockConcurrencyWhile(self.begin)

    async def fetch(self, request: Request) -> Response:
        client, server = WebSocketPair.new().object_values()
        self.ctx.acceptWebSocket(server, ["tea"])
        server.serializeAttachment({"n": len(self.ctx.getWebSockets("tea"))})
        return Response(None, status=101, web_socket=client)

    async def webSocketMessage(self, ws: WebSocket, message: str | bytes) -> None:
        for one in self.ctx.getWebSockets():
            if one is not ws and one.readyState == 1:
                one.send(message)
        kept = await caches.default.match("https://a.b/")
        if kept is not None and (found := await kept.json()):
            ws.close(1000, found)

    async def begin(self) -> None:
        found = await self.ctx.storage.get(["a", "b"])
        await self.ctx.storage.put("a", found.a or 0)
        rows = self.ctx.storage.sql.exec("SELECT ? AS n", 1).toArray()
        await self.ctx.storage.setAlarm(rows[0].n)


class Default(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        wait_until(fetch("https://a.b/", method="POST", body=FormData({"a": Blob("x")}), headers={"n": 1}))
        data = await request.json()
        if request.headers.get("a") is None:
            return Response.redirect("https://a.b/", 303)
        try:
            answer = await self.env.OTHER.call(to_js(data), JSON.stringify(1))
        except JsException as error:
            return Response(error.message, status=500, headers=[("a", "b")])
        file: File = (await request.form_data())["file"]
        print(env.PLAN, file.name, Headers({"a": "b"})["a"], (await Response.json(answer).json())["x"])
        page = HTMLRewriter().on("a", object()).transform(Response("", headers={"a": "b"}))
        if page.headers.getSetCookie() or (await request.arrayBuffer()).byteLength:
            return page
        return await asgi.fetch(app, request, self.env, self.ctx)


async def app(scope: Any, receive: Any, send: Any) -> None: ...


Whole = asgi.entrypoint(app, options=asgi.Options(encode_body="manual"))
"""


STEPS = "from workers import WorkflowStep\nasync def f(s: WorkflowStep) -> None:\n"
FETCHES = "from workers import fetch\nasync def f() -> int:\n"


def checked(folder: Path, source: str) -> list[str]:
    """What a checker says of a program, as it would at its author's."""
    file = folder / "main.py"
    file.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
               "--cache-dir", str(folder / "cache"), str(file)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them are looked at, so that the checker reads the libraries once."""
    return tmp_path_factory.mktemp("typed")


def test_a_program_that_is_right_is_not_complained_of(folder: Path) -> None:
    """In the strictest mode."""
    assert checked(folder, RIGHT) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("from workers import Nothing", 'has no attribute "Nothing"'),
        ("from workers import Response\nResponse({})", 'Argument 1 to "Response"'),
        ("from workers import Blob\nBlob(5)", 'Argument 1 to "Blob"'),
        (f"{STEPS}    await s.sleep('a', None)", 'Argument 2 to "sleep"'),
        (f"{STEPS}    s.do('a', config={{'timeouts': 1}})", "No overload variant"),
        (f"{FETCHES}    return (await fetch('x')).status_text", "Incompatible return"),
        (f"{FETCHES}    return await fetch('x', {{}})", "Too many positional arguments"),
        ("import asgi\nasgi.Options(encode_body='gzip')", 'Argument "encode_body" to "Options"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_program_is_found(folder: Path, source: str, words: str) -> None:
    """Before it runs."""
    found = checked(folder, source)
    assert any(": error: " in line and words in line for line in found), found


def test_stubs_shadow_nothing() -> None:
    """They are no modules: who has a package called `workers` imports that one."""
    done = subprocess.run([sys.executable, "-c", "import workers"], capture_output=True, text=True, check=False)
    assert "No module named 'workers'" in done.stderr


def test_stubs_name_what_there_is() -> None:
    """Every public name of the package, and every public method of its classes that the package has."""
    names = ast.literal_eval(_value("sandbox/guest/workers/__init__.py", "__all__"))
    stub = ast.parse((STUBS / "workers/__init__.pyi").read_text())
    there = {node.name for node in stub.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    there |= {node.target.id for node in stub.body
              if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
    assert set(names) <= there
    assert {name for name in there if not name.startswith("_")} <= {*names, *workers._LATER["workers.types"].split()}
    for file, names_of in (("objects", {"State": "DurableObjectState", "DurableObjectId": "DurableObjectId"}),
                           ("storage", {"Storage": "DurableObjectStorage"}), ("entries", {"Keys": "KeyStorage"}),
                           ("tables", {"Cursor": "Cursor"}), ("sockets", {"WebSocket": "WebSocket"}),
                           ("forms", {"FormData": "FormData"})):  # fmt: skip
        source = ast.parse((ROOT / f"sandbox/guest/{file}.py").read_text())
        for kind, typed in names_of.items():
            missing = _methods(stub, typed) - _methods(source, kind) - {"toString", "waitUntil"}
            assert not missing, f"{typed} promises {missing}, which {kind} does not have"


def _value(file: str, name: str) -> str:
    tree = ast.parse((ROOT / file).read_text())
    (found,) = (node.value for node in tree.body if isinstance(node, ast.Assign)
                and [target.id for target in node.targets if isinstance(target, ast.Name)] == [name])  # fmt: skip
    return ast.unparse(found)


def _methods(tree: ast.Module, name: str) -> set[str]:
    (kind,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = set()
    for node in kind.body:
        match node:
            case ast.FunctionDef(method) | ast.AsyncFunctionDef(method) if not method.startswith("_"):
                found.add(method)
            case ast.Assign(targets):
                for target in targets:
                    for one in ast.walk(target):
                        if isinstance(one, ast.Name):
                            found.add(one.id)
    return found
