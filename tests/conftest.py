"""What all tests share: their reports can be written down, whatever stands in them, and a busy machine has time."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from cloister.sandbox import brood, calls, nursery, spawner


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A process that does not come up is given up later than a host would: many tests may be starting theirs. So is one
    that does not stop with a call that its caller has given up, and what is dying has longer to leave its group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "GRACE", 25.0)
        patch.setattr(spawner, "_LAST_BREATHS", 1000)
        for module, name in ((nursery, "START_TIMEOUT"), (nursery, "FORK_TIMEOUT"), (brood, "HELLO_TIMEOUT")):
            patch.setattr(module, name, 250.0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half a character that a test has logged or failed with could be sent by no worker to the one who collects."""
    report = yield
    report.sections = [(title, _writable(text)) for title, text in report.sections]
    if report.failed and not _is_writable(text := str(report.longrepr)):
        report.longrepr = _writable(text)
    return report


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _is_writable(text: str) -> bool:
    return _writable(text) == text
