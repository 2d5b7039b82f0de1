"""The pipeline of ada/calculator.

One step after another, in the order in which I would do it by hand; the first complaint ends it.
The functions below the class do the work and know nothing of workflows. What is printed is
printed inside a step, so that a pipeline that was interrupted does not say it twice.
"""

import ast
import hashlib
import io
import unittest
import zipfile
from typing import Any

from calculator import __version__
from workers import WorkflowEntrypoint

MAX_LINE = 100
Files = dict[str, str]


class TenantWorkflow(WorkflowEntrypoint):
    """Check a push, pack it, ask somebody, publish it."""

    async def run(self, event: dict[str, Any], step: Any) -> dict[str, Any]:
        push = event["payload"]
        files: Files = push["files"]
        version = f"{__version__}+{push['commit'][:7]}"

        def result(verdict: str, **details: Any) -> dict[str, Any]:
            heading = {"verdict": verdict, "repository": push["repository"], "version": version}
            return heading | {"digest": None, "tests": None} | details

        @step.do("collect")
        async def collect() -> list[dict[str, Any]]:
            print(f"{push['pusher']} pushed {push['commit'][:7]} to {push['ref']}")
            return list_files(files)

        @step.do("lint")
        async def lint() -> list[str]:
            return find_lint(files)

        @step.do("types")
        async def types() -> list[str]:
            return find_missing_annotations(files)

        @step.do("test")
        async def test() -> dict[str, Any]:
            report = run_suite(files)
            print(f"{report['run']} tests, {len(report['failed'])} failed")
            return report

        @step.do("package")
        async def package() -> dict[str, Any]:
            return build_archive("calculator", version, files)

        await collect()
        await step.sleep("settle", "2 seconds")  # pushes come in bursts

        complaints = await lint() + await types()
        if complaints:
            return result("failed", complaints=complaints)

        tests = await test()
        if tests["failed"]:
            return result("failed", tests=tests)

        archive = await package()
        checked = {"digest": archive["digest"], "tests": tests}

        approval = await step.wait_for_event("approval", "approval", timeout="1 hour")
        if not approval["payload"].get("approved"):
            return result("rejected", **checked)

        @step.do("publish")
        async def publish() -> dict[str, Any]:
            content = bytes(archive["bytes"])
            return await self.env.STORE.publish("calculator", version, archive["digest"], content)

        return result("published", **checked, receipt=await publish())


def list_files(files: Files) -> list[dict[str, Any]]:
    """Return path, size and hash of each file, by path."""
    contents = {path: text.encode() for path, text in sorted(files.items())}
    return [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in contents.items()
    ]


def find_lint(files: Files) -> list[str]:
    """Return what we never want to see: long lines, bare excepts, mutable defaults."""
    complaints = []
    for path, text in python_files(files):
        for number, line in enumerate(text.splitlines(), start=1):
            if len(line) > MAX_LINE:
                complaints.append(f"{path}:{number}: {len(line)} characters")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                complaints.append(f"{path}:{node.lineno}: bare except")
            if isinstance(node, ast.arguments):
                complaints += [f"{path}:{line}: mutable default" for line in mutable_defaults(node)]
    return complaints


def mutable_defaults(arguments: ast.arguments) -> list[int]:
    """Return the lines of the defaults that all calls of the function would share."""
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    return [each.lineno for each in defaults if isinstance(each, ast.List | ast.Dict | ast.Set)]


def find_missing_annotations(files: Files) -> list[str]:
    """Return the public functions of the package that do not say all their types."""
    complaints = []
    for path, text in python_files(files):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                missing = [] if node.returns else ["return"]
                missing += [
                    argument.arg
                    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    if argument.annotation is None and argument.arg not in ("self", "cls")
                ]
                complaints += [f"{path}:{node.lineno}: {node.name}: {name}" for name in missing]
    return complaints


def run_suite(files: Files) -> dict[str, Any]:
    """Run every module in tests/ and return how many tests ran and which of them failed."""
    modules = [
        path.removesuffix(".py").replace("/", ".")
        for path, _ in python_files(files)
        if path.startswith("tests/test_")
    ]
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)
    outcome = unittest.TestResult()
    suite.run(outcome)
    failed = [test.id() for test, _ in outcome.failures + outcome.errors]
    return {"run": outcome.testsRun, "failed": failed}


def build_archive(name: str, version: str, files: Files) -> dict[str, Any]:
    """Zip the package, so that the same sources give the same bytes on any machine and day."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, text in python_files(files):
            if path.startswith(f"{name}/"):
                entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, text)
    content = target.getvalue()
    return {
        "name": f"{name}-{version}.zip",
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size": len(content),
        "bytes": content,
    }


def python_files(files: Files) -> list[tuple[str, str]]:
    """Return the Python files with their text, by path."""
    return sorted((path, text) for path, text in files.items() if path.endswith(".py"))
