"""Of pages: the rewriter is that of `workers`."""

from __future__ import annotations

from cloister.sandbox.guest.rewriter import HTMLRewriter

__all__ = ["HTMLRewriter"]
