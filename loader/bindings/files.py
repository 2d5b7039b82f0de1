"""How many files of the host's are open on behalf of tenants: a bound for each, and one for all of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from ..errors import NoCapacity, TenantThrottled


class OpenFiles:
    """At most `most`, and at most `each` of one tenant."""

    def __init__(self, most: int, each: int) -> None:
        self._most, self._each = most, each
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """One more is open. `TenantThrottled`, `NoCapacity`."""
        if self._open[tenant] >= self._each:
            raise TenantThrottled(
                tenant, "files_per_tenant", self._each, None,
                f"reads or writes {self._each:,} objects at once already; read them to their ends, or close them",
            )  # fmt: skip
        if self._open.total() >= self._most:
            raise NoCapacity(f"{self._most:,} objects are read or written at once; raise ObjectStore(files=...)")
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]
