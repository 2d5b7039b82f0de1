"""`workers.workflows`: what a workflow's author needs beside the entrypoint."""

from __future__ import annotations


class NonRetryableError(Exception):
    """Raised by a step that must not be tried again: the error reaches `run` at once."""

    __module__ = "workers.workflows"
