"""HTTP at the host's end: requests and responses that cross into a sandbox and out of it, and the door to the world."""

from .asgi import HttpLimits, asgi
from .messages import Request, Response

__all__ = ["HttpLimits", "Request", "Response", "asgi"]
