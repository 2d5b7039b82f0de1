"""`workers.gateway`: what the adapters of ASGI and of WSGI have in common."""

from __future__ import annotations

from .options import BaseOptions, EncodeBody

__all__ = ["BaseOptions", "EncodeBody"]
