"""CI for grace/pagetext, as a graph.

Each check is a step that asks for what it needs by naming it as a parameter: `report` needs
`suite`, `style` and `coverage`, and all of these need `manifest`. Awaiting `report` is enough to
run the lot, each once. Only failing tests and missing annotations stop a release; remarks about
style are for the author to read.
"""

import ast
import hashlib
import io
import tokenize
import unittest
import zipfile
from collections.abc import Iterable
from typing import Any

from workers import WorkflowEntrypoint

PACKAGE = "pagetext"
VERSION = "1.2.0"
LONGEST_LINE = 100
LEAST_COVERAGE = 90


class TenantWorkflow(WorkflowEntrypoint):
    """Look at a push from all sides at once; release it if nothing speaks against it."""

    async def run(self, event: Any, step: Any) -> dict[str, Any]:
        push = event.payload
        sources = {path: push.files[path] for path in sorted(push.files) if path.endswith(".py")}
        version = f"{VERSION}+{push.commit[:8]}"

        @step.do()
        async def manifest() -> dict[str, Any]:
            print(f"checking {push.repository} at {push.commit[:8]}")
            return {path: fingerprint(text.encode()) for path, text in sources.items()}

        @step.do()
        async def suite(manifest: dict[str, Any]) -> dict[str, Any]:
            return run_tests(path for path in manifest if path.startswith("tests/test_"))

        @step.do()
        async def style(manifest: dict[str, Any]) -> list[str]:
            return [
                f"{path}:{line}: {remark}"
                for path in manifest
                for line, remark in style_remarks(sources[path]) + unused_imports(sources[path])
            ]

        @step.do()
        async def coverage(manifest: dict[str, Any]) -> int:
            own = [path for path in manifest if path.startswith(f"{PACKAGE}/")]
            return annotation_coverage(sources[path] for path in own)

        @step.do(concurrent=True)
        async def report(suite: dict[str, Any], style: list[str], coverage: int) -> dict[str, Any]:
            reasons = [f"{test} failed" for test in suite["failed"]]
            if coverage < LEAST_COVERAGE:
                reasons.append(f"only {coverage} % of the public functions are annotated")
            for line in reasons + style:
                print(line)
            return {"reasons": reasons, "tests": suite, "style": style, "coverage": coverage}

        outcome = {"repository": push.repository, "version": version, "digest": None}
        outcome |= await report()
        if outcome["reasons"]:
            return outcome | {"verdict": "failed"}

        @step.do()
        async def archive() -> dict[str, Any]:
            return pack(f"{PACKAGE}-{version}.zip", sources)

        packed = await archive()
        outcome["digest"] = packed["digest"]

        await step.sleep("settle", "2 seconds")
        answer = await step.wait_for_event("approval", "approval", timeout="1 hour")
        if not answer.payload.get("approved"):
            return outcome | {"verdict": "rejected"}

        @step.do()
        async def publish() -> dict[str, Any]:
            content = bytes(packed["bytes"])
            return await self.env.STORE.publish(PACKAGE, version, packed["digest"], content)

        return outcome | {"verdict": "published", "receipt": await publish()}


def fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Findings(unittest.TestResult):
    """A test result that keeps the first line of what went wrong with each test."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._keep(test, err[1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._keep(test, err[1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._keep(subtest, err[1])

    def _keep(self, test: unittest.TestCase, error: BaseException) -> None:
        first_line, *_ = str(error).splitlines() or [""]
        self.reasons[test.id()] = f"{type(error).__name__}: {first_line}"


def run_tests(paths: Iterable[str]) -> dict[str, Any]:
    """Run the test modules at `paths`; say how many tests ran, which failed, and why."""
    names = [path.removesuffix(".py").replace("/", ".") for path in paths]
    findings = Findings()
    unittest.defaultTestLoader.loadTestsFromNames(names).run(findings)
    return {"run": findings.testsRun, "failed": list(findings.reasons), "why": findings.reasons}


def style_remarks(source: str) -> list[tuple[int, str]]:
    """Return line and remark for what the tokens alone can tell."""
    remarks = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match token.type, token.string:
            case tokenize.COMMENT, text if not text.startswith(("# ", "#!", "#:")):
                remarks.append((token.start[0], "no space after #"))
            case tokenize.OP, ";":
                remarks.append((token.start[0], "two statements on one line"))
            case tokenize.NEWLINE | tokenize.NL, _ if token.end[1] > LONGEST_LINE + 1:
                remarks.append((token.start[0], f"longer than {LONGEST_LINE} characters"))
    return remarks


def unused_imports(source: str) -> list[tuple[int, str]]:
    """Return line and remark for each imported name that nothing uses or lists in __all__."""
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    strings = (node.value for node in nodes if isinstance(node, ast.Constant))
    used |= {text for text in strings if isinstance(text, str)}
    imported = {
        (alias.asname or alias.name).partition(".")[0]: node.lineno
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return [(line, f"unused import {name}") for name, line in imported.items() if name not in used]


def annotation_coverage(sources: Iterable[str]) -> int:
    """Return how many public functions, of a hundred, annotate their result and every argument."""
    functions = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    return 100 * sum(map(is_annotated, functions)) // max(len(functions), 1)


def is_annotated(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    own = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    return function.returns is not None and all(argument.annotation for argument in own)


def pack(name: str, sources: dict[str, str]) -> dict[str, Any]:
    """Zip the package with neither clock nor compression in it, so equal sources hash equally."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for path, text in sources.items():
            if path.startswith(f"{PACKAGE}/"):
                member = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
                member.external_attr = 0o644 << 16
                target.writestr(member, text)
    content = buffer.getvalue()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"name": name, "digest": digest, "size": len(content), "bytes": content}
