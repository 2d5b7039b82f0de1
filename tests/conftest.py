"""What all tests share: their reports can be written down, whatever stands in them."""

from __future__ import annotations

from collections.abc import Generator

import pytest


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
