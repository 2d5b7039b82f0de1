"""What one tenant may take: values checked when they are made, buckets that fill, and words for who is noisy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.loader import Host, LoaderConfig, LoadFailed, Quota, TenantThrottled, WorkflowLimits
from cloister.loader.config import cores, memory_here, sandboxes_here
from cloister.loader.pool import Key
from cloister.loader.quota import Bucket, Weights
from cloister.loader.tenants import Tenant, Tenants


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0}, {"concurrency": None}, {"queue": -1}, {"calls_per_second": 0}, {"cpu_share": float("inf")},
        {"weight": 0}, {"weight": None}, {"memory_bytes": 0}, {"storage_bytes": 1.5}, {"cpu_share": True},
    ],
)  # fmt: skip
def test_a_quota_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(ValueError, match=f"Quota.{next(iter(wrong))}"):
        Quota(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_sandboxes": 0}, {"spares": -1}, {"sandboxes_per_tenant": 0}, {"calls_per_sandbox": 1.5}, {"idle_s": -1},
        {"look_every_s": 0}, {"memory_bytes": 1024}, {"boots_at_once": True}, {"backoff_s": "soon"}, {"quota": None},
        {"drain_s": float("nan")},
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match=f"LoaderConfig.{next(iter(wrong))}"):
        LoaderConfig(**wrong)


def test_defaults_are_what_this_machine_can_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    """They follow its cores, its memory and the descriptors that this process may open."""
    config = LoaderConfig()
    assert config.sandboxes_per_tenant == cores()
    assert config.spares == 2 * cores()
    assert config.memory_bytes == memory_here() // 2
    assert 8 <= config.max_sandboxes == sandboxes_here() <= 4096
    monkeypatch.setattr("resource.getrlimit", lambda _: (528, 4096))
    assert LoaderConfig().max_sandboxes == 100
    monkeypatch.setattr("cloister.loader.config.memory_here", lambda: 512 << 20)
    assert LoaderConfig().max_sandboxes == 32
    assert LoaderConfig().memory_bytes == 256 << 20


def test_a_bucket_fills_up_to_its_size_and_can_be_overdrawn() -> None:
    """And says how long it takes until there is so much in it."""
    bucket = Bucket(2.0, 4.0, now=0.0)
    bucket.draw(4.0, now=0.0)
    assert bucket.wait(1.0, now=0.0) == 0.5
    assert bucket.level(1.0) == 2.0
    bucket.draw(10.0, now=1.0)
    assert bucket.wait(0.0, now=1.0) == 4.0
    assert bucket.level(1000.0) == 4.0


def test_calls_that_come_too_often_are_refused_until_there_is_room_again() -> None:
    """As many at once as are allowed in a second; the error says how long to wait, and that is right."""
    tenant = Tenant("noisy", Quota(calls_per_second=5), now=0.0)
    for _ in range(5):
        tenant.admit(0.0)
    with pytest.raises(
        TenantThrottled, match=r"'noisy' calls more often than 5 times a second; try again in 0\.20 s"
    ) as c:
        tenant.admit(0.0)
    assert (c.value.tenant_id, c.value.quota, c.value.limit) == ("noisy", "calls_per_second", 5)
    assert c.value.retry_after_s == pytest.approx(0.2)
    tenant.admit(0.2)
    with pytest.raises(TenantThrottled):
        tenant.admit(0.2)


def test_a_share_of_cpu_time_is_an_average_and_what_was_used_is_waited_for() -> None:
    """Half a core: after eight seconds of work at once, it is three seconds over, which take six to pass."""
    tenant = Tenant("busy", Quota(cpu_share=0.5), now=0.0)
    tenant.admit_run(0.0)
    tenant.charge(8.0, now=0.0)
    with pytest.raises(TenantThrottled, match=r"more CPU time than 0\.5 of a core") as caught:
        tenant.admit_run(0.0)
    assert caught.value.retry_after_s == pytest.approx(6.0)
    with pytest.raises(TenantThrottled):
        tenant.admit(5.9)
    tenant.admit(6.1)


def test_tenants_of_whom_there_is_nothing_to_say_are_forgotten() -> None:
    """A million that came once leave nothing behind; one that has used up its calls is known until they are back."""
    now = 0.0
    tenants = Tenants(
        Quota(), lambda tenant_id: Quota(calls_per_second=1) if tenant_id == "noisy" else None, lambda: now
    )
    tenants.forget(tenants.of(Key("quiet")))
    assert len(tenants) == 0
    noisy = tenants.of(Key("noisy"))
    noisy.admit(now)
    tenants.forget(noisy)
    assert tenants.of(Key("noisy")) is noisy
    now = 1.0
    tenants.forget(noisy)
    assert len(tenants) == 0


def test_a_one_off_is_no_tenant_of_the_same_name() -> None:
    """However somebody is called: it has a record of its own, and nobody is asked for its quota."""
    asked: list[str] = []
    tenants = Tenants(Quota(), lambda tenant_id: asked.append(tenant_id), lambda: 0.0)
    one_off = tenants.of(Key("one-off 1", one_off=True))
    assert tenants.of(Key("one-off 1")) is not one_off
    assert asked == ["one-off 1"]


@pytest.mark.parametrize("answer", ["much", OSError("no such table")])
def test_quotas_that_fail_are_the_hosts_failure(answer: object) -> None:
    """By name, and for nobody else."""

    def quotas(tenant_id: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(LoadFailed, match=r"quotas (raised OSError: no such table|returned str)"):
        Tenants(Quota(), quotas, lambda: 0.0).of(Key("t"))


async def test_runs_that_resume_take_turns_by_the_same_weights(path: Path) -> None:
    """An engine asks for them by the scope, which is the tenant's id; what the host says of its workflow goes first."""
    quotas = {"heavy": Quota(weight=3.0)}
    host = Host(path, get_code=lambda _: pytest.fail("asked for code"), quotas=quotas.get)
    weights = host._options["limits"].weights
    assert [weights.get(name, 1) for name in ("heavy", "light")] == [3.0, 1.0]
    quotas["light"] = Quota(weight=2.0)
    assert weights.get("light", 1) == 2.0
    own = WorkflowLimits(weights={"heavy": 5})
    host = Host(path, get_code=lambda _: pytest.fail("asked for code"), quotas=quotas.get, limits=own)
    assert host._options["limits"].weights == {"heavy": 5}


def test_weights_of_quotas_that_fail_are_those_of_everybody() -> None:
    """A run goes on, whatever becomes of the host's table of quotas."""

    def fail(_: str) -> Quota:
        raise LoadFailed("no such table")

    assert Weights(fail).get("t", 1) == 1
