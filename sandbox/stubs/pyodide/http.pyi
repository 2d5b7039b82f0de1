from typing import Any

from workers import FetchResponse as FetchResponse
from workers import Response

async def pyfetch(url: str, /, **options: Any) -> Response: ...
def open_url(url: str) -> Any: ...
