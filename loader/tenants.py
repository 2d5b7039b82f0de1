"""The tenants that there is something to remember of: what each may take, has taken, and has in use.

A record is made when it is needed and dropped when it says nothing any more, so that a million tenants cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from .errors import LoadFailed, TenantThrottled
from .quota import CPU_WINDOW, Bucket, Quota, Quotas

if TYPE_CHECKING:
    from .pool import Key, Pool


_AHEAD: Final = 16
"""Direct calls that a tenant may have in flight whatever the host has to do."""


class Tenant:
    """One tenant's record. `calls` counts direct calls in flight, of which there may be `most` now; `pools` holds its
    sandboxes, one pool for each version."""

    __slots__ = (
        "_cpu", "_rate", "_redeploying", "answered", "calls", "least", "metered", "most", "owner", "pools", "quota",
        "waiting", "watched", "weight",
    )  # fmt: skip

    def __init__(self, owner: str | Key, quota: Quota, now: float) -> None:
        self.owner = owner
        self.calls = self.waiting = 0
        self.pools: set[Pool] = set()
        self._redeploying: asyncio.Lock | None = None
        self.quota = quota
        self.weight = quota.weight
        self.least = self.most = min(quota.concurrency, _AHEAD)
        self.answered = self.watched = False
        rate, share = quota.calls_per_second, quota.cpu_share
        self._rate = Bucket(rate, max(rate, 1.0), now) if rate is not None else None
        self._cpu = Bucket(share, share * CPU_WINDOW, now) if share is not None else None
        self.metered = self._rate is not None or self._cpu is not None

    @property
    def tenant_id(self) -> str:
        """Whose record it is."""
        return self.owner if isinstance(self.owner, str) else self.owner.tenant_id

    def narrow(self, most: int) -> None:
        """It may have so many calls in flight, within what it may have in any case and its ceiling."""
        self.most = min(max(most, self.least), self.quota.concurrency)

    @property
    def redeploying(self) -> asyncio.Lock:
        """Held by whoever switches it to other code: one after the other."""
        if self._redeploying is None:
            self._redeploying = asyncio.Lock()
        return self._redeploying

    def admit(self, now: float) -> None:
        """One more direct call: `TenantThrottled` where it comes too soon."""
        self.admit_run(now)
        if self._rate is None:
            return
        if (wait := self._rate.wait(1.0, now)) > 0:
            words = f"calls more often than {self._rate.rate:g} times a second"
            raise TenantThrottled(self.tenant_id, "calls_per_second", self._rate.rate, wait, words)
        self._rate.draw(1.0, now)

    def admit_run(self, now: float) -> None:
        """A durable run goes on: `TenantThrottled` while its CPU time is used up."""
        if self._cpu is None:
            return
        used = sum(worker.newly_used() for pool in self.pools for worker in pool.all)
        self._cpu.draw(used, now)
        if self._cpu.level(now) <= 0:
            words = f"has used more CPU time than {self._cpu.rate:g} of a core, averaged over {CPU_WINDOW:g} s"
            raise TenantThrottled(self.tenant_id, "cpu_share", self._cpu.rate, self._cpu.wait(0.0, now) or 0.01, words)

    def charge(self, seconds: float, now: float) -> None:
        """CPU time that a sandbox used which has ended."""
        if self._cpu is not None:
            self._cpu.draw(seconds, now)

    def silent(self, now: float) -> bool:
        """Whether there is nothing to remember of it."""
        full = all(bucket is None or bucket.level(now) >= bucket.size for bucket in (self._rate, self._cpu))
        return full and not self.pools and not self.calls and not self.waiting


class Tenants:
    """The records, by id."""

    def __init__(self, quota: Quota, quotas: Quotas | None, now: Callable[[], float]) -> None:
        self._quota, self._quotas, self._now = quota, quotas, now
        self._records: dict[str | Key, Tenant] = {}
        self._without: set[Tenant] = set()
        """Those that have no sandbox, or had none a moment ago: whoever may have to be forgotten is among them."""
        self.bounded: set[Tenant] = set()
        """Those whose memory has a ceiling of its own."""

    def __iter__(self) -> Iterator[Tenant]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def of(self, key: Key) -> Tenant:
        """The record of a key's tenant, made if need be. What is loaded once is nobody's, and a tenant by itself.
        `LoadFailed` if the host's `quotas` fails."""
        owner = key if key.one_off else key.tenant_id
        record = self._records.get(owner)
        if record is None:
            quota = self._quota if key.one_off else self.quota(key.tenant_id)
            record = self._records[owner] = Tenant(owner, quota, self._now())
            self._without.add(record)
            if quota.memory_bytes is not None:
                self.bounded.add(record)
        return record

    def quota(self, tenant_id: str) -> Quota:
        """What the host allows it."""
        if self._quotas is None:
            return self._quota
        try:
            found = self._quotas(tenant_id)
        except Exception as error:
            raise LoadFailed(f"the host's quotas raised {type(error).__name__}: {error}") from error
        if found is not None and not isinstance(found, Quota):
            raise LoadFailed(f"the host's quotas returned {type(found).__name__}; it must return a Quota or None")
        return found or self._quota

    def known(self, tenant_id: str) -> Tenant | None:
        """Its record, if there is one."""
        return self._records.get(tenant_id)

    def forget(self, tenant: Tenant) -> None:
        """Drop a record that says nothing any more."""
        if not tenant.pools and self._records.get(tenant.owner) is tenant:
            self._without.add(tenant)
            if tenant.silent(self._now()):
                del self._records[tenant.owner]
                self._without.discard(tenant)
                self.bounded.discard(tenant)

    def forget_silent(self) -> None:
        """The same for all of them."""
        for tenant in tuple(self._without):
            if tenant.pools:
                self._without.discard(tenant)
            else:
                self.forget(tenant)
