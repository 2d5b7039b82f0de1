"""Continuous integration of katherine/ledger: `run` is the plan, the methods are its phases.

What is tested is what is shipped, so the release is built before the suite runs. The mirror and
the store are shared machines and not always up: the two steps that need them are patient.
"""

import hashlib
import io
import logging
import unittest
import zipfile
from typing import Any

import ledger
import quality
from workers import WorkflowEntrypoint
from workers.workflows import NonRetryableError

log = logging.getLogger("ledger.ci")
log.setLevel(logging.INFO)

NAME = "ledger"
PATIENT = {
    "retries": {"limit": 4, "delay": 200, "backoff": "constant"},
    "timeout": "5 seconds",
}


class Stopped(Exception):
    """The push goes no further; the details complete the result of the run."""

    def __init__(self, verdict: str, **details: Any) -> None:
        super().__init__(verdict)
        self.details = {"verdict": verdict, **details}


class TenantWorkflow(WorkflowEntrypoint):
    """Release the version that the sources name, once, and only if everything speaks for it."""

    async def run(self, event: Any, step: Any) -> dict[str, Any]:
        push = event.payload
        sources = {path: text for path, text in sorted(push.files.items()) if path.endswith(".py")}
        result = {"repository": push.repository, "version": ledger.__version__}
        result |= {"digest": None, "tests": None}
        try:
            await self.check_that_version_is_new(step)
            result["files"] = await self.collect(step, push)
            for gate in quality.GATES:
                await self.pass_gate(step, gate, sources)
            release = await self.build(step, sources)
            result["digest"] = release["digest"]
            result["tests"] = await self.test(step, sources)
            await step.sleep("settle", "2 seconds")
            result["approved_by"] = await self.approve(step)
            result["receipt"] = await self.publish(step, release)
        except Stopped as stopped:
            return result | stopped.details
        return result | {"verdict": "published"}

    async def check_that_version_is_new(self, step: Any) -> None:
        """A version is released once: ask the mirror which ones have been."""

        @step.do("fetch index", config=PATIENT)
        async def fetch_index() -> list[str]:
            log.info("asking the mirror for the releases of %s", NAME)
            index = await self.env.MIRROR.fetch(NAME)
            if index["name"] != NAME:
                raise NonRetryableError(f"the mirror answered for {index['name']}")
            return index["versions"]

        if ledger.__version__ in await fetch_index():
            raise Stopped("rejected", reasons=[f"{ledger.__version__} has been released before"])

    async def collect(self, step: Any, push: Any) -> int:
        """Write down what was pushed, file by file; the result only says how many."""

        @step.do("collect")
        async def collect() -> dict[str, dict[str, Any]]:
            log.info("%s: %s files at %s", push.repository, len(push.files), push.commit)
            return {path: describe(text.encode()) for path, text in sorted(push.files.items())}

        return len(await collect())

    async def pass_gate(self, step: Any, gate: str, sources: dict[str, str]) -> None:
        """Hold the package and its tests, not the tools, against one set of house rules."""

        @step.do(gate)
        async def complaints() -> list[str]:
            return [
                complaint
                for path, source in sources.items()
                if path.startswith((f"{NAME}/", "tests/"))
                for complaint in quality.complaints_about(path, source, gate)
            ]

        if reasons := await complaints():
            raise Stopped("failed", reasons=reasons)

    async def build(self, step: Any, sources: dict[str, str]) -> dict[str, Any]:
        """Pack the release."""

        @step.do("build")
        async def build() -> dict[str, Any]:
            package = {path: text for path, text in sources.items() if path.startswith(f"{NAME}/")}
            content = pack(package)
            digest = f"sha256:{describe(content)['sha256']}"
            name = f"{NAME}-{ledger.__version__}.zip"
            return {"name": name, "digest": digest, "size": len(content), "bytes": content}

        return await build()

    async def test(self, step: Any, sources: dict[str, str]) -> dict[str, Any]:
        """Run the suite."""

        @step.do("test")
        async def test() -> dict[str, Any]:
            modules = [path for path in sources if path.startswith("tests/test_")]
            report, output = run_suite([path[:-3].replace("/", ".") for path in modules])
            log.info("%s", output)
            return report

        report = await test()
        if report["failed"]:
            raise Stopped("failed", tests=report)
        return report

    async def approve(self, step: Any) -> str:
        """Wait for a person to say yes, and return who it was."""
        answer = await step.wait_for_event("approval", "approval", timeout="1 hour")
        if not answer.payload.get("approved"):
            raise Stopped("rejected", reasons=["not approved"])
        return answer.payload.get("by", "somebody")

    async def publish(self, step: Any, release: dict[str, Any]) -> dict[str, Any]:
        """Hand the release to the store; its receipt is part of the result."""

        @step.do("publish", config=PATIENT)
        async def publish() -> dict[str, Any]:
            content = bytes(release["bytes"])
            version, digest = ledger.__version__, release["digest"]
            return await self.env.STORE.publish(NAME, version, digest, content)

        return await publish()


def describe(content: bytes) -> dict[str, Any]:
    """Return what identifies a piece of content."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def pack(files: dict[str, str]) -> bytes:
    """Return a zip archive that depends on names and texts alone: same in, same out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, text in files.items():
            member = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            archive.writestr(member, text)
    return buffer.getvalue()


def run_suite(modules: list[str]) -> tuple[dict[str, Any], str]:
    """Run test modules; return a report, and what unittest would have written to a terminal."""
    output = io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)
    outcome = unittest.TextTestRunner(output, verbosity=0).run(suite)
    failed = [test.id() for test, _ in outcome.failures + outcome.errors]
    return {"run": outcome.testsRun, "failed": failed}, output.getvalue().strip()
