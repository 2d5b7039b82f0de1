"""What a tenant stores in all of its stores together, held against `Quota.storage_bytes`.

Each store counts what is in it in the same transaction that stores it; here those counts are kept side by side while
somebody looks at them, so that nothing is true here that a crash could make false. It refuses to know what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final, Protocol

from ..errors import LoaderError, LoadFailed
from ..quota import Quota, Quotas

_REMEMBERED: Final = 10_000


class StorageQuotaExceeded(LoaderError):
    """The tenant stores more than it may. Something has to be deleted first."""


class Store(Protocol):
    """What takes part."""

    async def measure(self, tenant: str, account: Account) -> None:
        """Have the account learn how many bytes of the tenant's are here, while nothing changes that."""


class Account:
    """One tenant's."""

    def __init__(self) -> None:
        self.holders = 0
        self.limit: int | None = None
        self.turn = asyncio.Lock()
        self._stored: dict[Store, int] = {}
        self._lock = threading.Lock()

    def learn(self, store: Store, size: int) -> None:
        """So much is in a store. From any thread, as all that follows."""
        with self._lock:
            self._stored[store] = size

    def knows(self, store: Store) -> bool:
        """Whether it was measured."""
        return store in self._stored

    def forget(self, store: Store) -> None:
        """It is closed."""
        with self._lock:
            self._stored.pop(store, None)

    @property
    def total(self) -> int:
        """Bytes in all stores."""
        with self._lock:
            return sum(self._stored.values())

    def charge(self, store: Store, size: int) -> None:
        """So much more, or less. `StorageQuotaExceeded`, and then it does not count."""
        with self._lock:
            if store not in self._stored:
                return  # it is measured when somebody comes
            now = sum(self._stored.values()) + size
            if size > 0 and self.limit is not None and now > self.limit:
                raise self.refusal(now)
            self._stored[store] += size

    def correct(self, store: Store, size: int) -> None:
        """What was charged came out otherwise."""
        with self._lock:
            if store in self._stored:
                self._stored[store] += size

    def refusal(self, size: int) -> StorageQuotaExceeded:
        """What is said to whoever would store so many bytes in all, or more."""
        return StorageQuotaExceeded(
            f"{size:,} bytes would be stored in all; at most {self.limit:,} may be (Quota.storage_bytes). "
            "Delete something first"
        )

    @property
    def room(self) -> int:
        """Bytes that may still be stored."""
        return 1 << 62 if self.limit is None else max(self.limit - self.total, 0)


class Storage:
    """`Storage(quotas)`, with the `quotas` that the `Host` has. Given to stores as `storage`, it bounds what a tenant
    has in all of them together. `quota` is that of each tenant for which `quotas` gives no other.
    """

    def __init__(self, quotas: Quotas | None = None, *, quota: Quota | None = None) -> None:
        self._quotas, self._quota = quotas, quota or Quota()
        self._stores: list[Store] = []
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    async def usage(self, tenant: str) -> int:
        """How many bytes a tenant has in all stores that are open."""
        async with self.held(tenant) as account:
            return account.total

    def join(self, store: Store) -> None:
        """It is open, and counts from now on."""
        self._stores.append(store)

    def leave(self, store: Store) -> None:
        """It is closed."""
        self._stores.remove(store)
        for account in self._accounts.values():
            account.forget(store)

    def known(self, tenant: str) -> Account | None:
        """A tenant's account, if somebody has looked at it."""
        return self._accounts.get(tenant)

    @contextlib.asynccontextmanager
    async def held(self, tenant: str) -> AsyncIterator[Account]:
        """A tenant's account, for as long as something is stored, or deleted."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account()
        self._accounts.move_to_end(tenant)
        account.holders += 1
        try:
            self._drop_idle()
            account.limit = self._limit(tenant)
            if not all(map(account.knows, self._stores)):
                async with account.turn:
                    for store in [store for store in self._stores if not account.knows(store)]:
                        await store.measure(tenant, account)
            yield account
        finally:
            account.holders -= 1

    def _limit(self, tenant: str) -> int | None:
        if self._quotas is None:
            return self._quota.storage_bytes
        try:
            found = self._quotas(tenant) or self._quota
        except Exception as error:
            raise LoadFailed(f"the host's quotas raised {type(error).__name__}: {error}") from error
        return found.storage_bytes

    def _drop_idle(self) -> None:
        if len(self._accounts) > _REMEMBERED:
            idle = next((tenant for tenant, account in self._accounts.items() if not account.holders), None)
            if idle is not None:
                del self._accounts[idle]
