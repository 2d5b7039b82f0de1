"""The envelope around an instance's params: what a wrapped binding hands to the raw one, and what is taken off."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.engine import Encoded, Workflow
from cloister.ipc import CodecError, values
from cloister.loader import MissingDispatcherMetadataError, wrap_workflow_binding
from cloister.loader.dispatch import unwrap

KEY = "__dispatcherMetadata"


class Recorder:
    """Stands in for the raw workflow: remembers what it is asked, and answers with ids of its own."""

    def __init__(self, chosen_id: str | None = None) -> None:
        self.chosen_id = chosen_id
        self.created: list[Mapping[str, Any]] = []
        self.scopes: list[str] = []
        self.looked_up: list[str] = []

    async def create(self, options: Mapping[str, Any], /, *, scope: str) -> Any:
        self.created.append(options)
        self.scopes.append(scope)
        return SimpleNamespace(id=self.chosen_id or options.get("id"))

    async def create_batch(self, entries: Sequence[Mapping[str, Any]], /, *, scope: str) -> list[Any]:
        return [await self.create(entry, scope=scope) for entry in entries]

    async def get(self, id: str, *, scope: str) -> Any:  # noqa: A002 - the name it has everywhere
        self.looked_up.append(id)
        self.scopes.append(scope)
        return SimpleNamespace(id=id)

    @property
    def envelopes(self) -> list[Any]:
        """What was stored as params, decoded."""
        return [values.loads(options["params"].data) for options in self.created]


def wrapped(recorder: Recorder, metadata: Mapping[str, Any] | None = None) -> Any:
    return wrap_workflow_binding(cast(Workflow, recorder), metadata or {"tenant_id": "t-1"})


async def test_create_puts_metadata_and_params_side_by_side_and_keeps_the_id() -> None:
    """The engine receives the same id, the metadata under its key, and the params whole under theirs."""
    recorder = Recorder()
    await wrapped(recorder).create({"id": "one", "params": {"user": "Ann", "n": [1, 2]}})
    assert recorder.created[0]["id"] == "one"
    assert recorder.envelopes == [{KEY: {"tenant_id": "t-1"}, "params": {"user": "Ann", "n": [1, 2]}}]
    assert recorder.scopes == ["t-1"]


async def test_create_without_arguments_still_yields_an_envelope() -> None:
    """Absent params are encoded as such, so that the envelope is one."""
    recorder = Recorder()
    await wrapped(recorder).create()
    assert recorder.envelopes == [{KEY: {"tenant_id": "t-1"}, "params": None}]


async def test_create_with_only_an_id_keeps_it_and_has_no_params() -> None:
    """An id alone is enough, as a dict or as a keyword."""
    recorder = Recorder()
    await wrapped(recorder).create({"id": "a"})
    await wrapped(recorder).create(id="b")
    assert [options["id"] for options in recorder.created] == ["a", "b"]
    assert [envelope["params"] for envelope in recorder.envelopes] == [None, None]


async def test_metadata_of_any_shape_arrives_deeply_equal() -> None:
    """Text, lists and nested objects come out as they went in."""
    metadata = {
        "tenant_id": "t",
        "roles": ["a", "b"],
        "nested": {"deep": {"er": [1, {"x": None}]}},
        "on": True,
        "f": 1.5,
    }
    recorder = Recorder()
    await wrapped(recorder, metadata).create(params="p")
    assert recorder.envelopes[0][KEY] == metadata


async def test_create_batch_wraps_each_item_in_order() -> None:
    """The same metadata around each, ids and order kept, each its own params, and an item without any is fine."""
    recorder = Recorder()
    made = await wrapped(recorder).create_batch(
        [{"id": "a", "params": 1}, {"id": "b"}, {"id": "c", "params": {"x": 3}}]
    )
    assert [instance.id for instance in made] == ["a", "b", "c"]
    assert [options["id"] for options in recorder.created] == ["a", "b", "c"]
    assert recorder.envelopes == [{KEY: {"tenant_id": "t-1"}, "params": params} for params in (1, None, {"x": 3})]


async def test_get_forwards_the_id_untouched() -> None:
    """And gives back an instance of that id."""
    recorder = Recorder()
    instance = await wrapped(recorder).get("any-id_1")
    assert recorder.looked_up == ["any-id_1"]
    assert instance.id == "any-id_1"


async def test_the_instance_reports_the_id_that_the_engine_chose() -> None:
    """Not the one that was asked for."""
    assert (await wrapped(Recorder(chosen_id="chosen")).create(id="asked")).id == "chosen"


async def test_the_options_of_the_caller_are_left_alone() -> None:
    """Wrapping copies; the caller's dict is what it was."""
    options = {"id": "a", "params": {"x": [1]}, "retention": {"successRetention": "1 day"}}
    before = copy.deepcopy(options)
    recorder = Recorder()
    await wrapped(recorder).create(options)
    await wrapped(recorder).create_batch([options])
    assert options == before


async def test_other_options_are_copied_through() -> None:
    """What the engine may know one day is not for the wrapper to drop."""
    recorder = Recorder()
    await wrapped(recorder).create({"id": "a", "retention": {"successRetention": "1 day"}})
    assert recorder.created[0]["retention"] == {"successRetention": "1 day"}


async def test_a_wrapped_binding_that_is_used_again_never_nests_envelopes() -> None:
    """Three creates of one binding are three single envelopes."""
    recorder = Recorder()
    binding = wrapped(recorder)
    for number in range(3):
        await binding.create(params=number)
    assert [envelope["params"] for envelope in recorder.envelopes] == [0, 1, 2]


async def test_the_raw_binding_is_looked_up_anew_for_each_call() -> None:
    """A function given for the workflow is called once per call, and not before the first."""
    recorder, looks = Recorder(), 0

    def look() -> Workflow:
        nonlocal looks
        looks += 1
        return cast(Workflow, recorder)

    binding = wrap_workflow_binding(look, {"tenant_id": "t"})
    assert looks == 0
    await binding.create()
    await binding.create_batch([{}, {}])
    await binding.get("x")
    assert looks == 3


async def test_metadata_is_taken_when_the_binding_is_wrapped() -> None:
    """What the host does to its dict afterwards changes nothing."""
    recorder = Recorder()
    metadata = {"tenant_id": "t", "roles": ["reader"]}
    binding = wrapped(recorder, metadata)
    metadata["roles"] = ["admin"]
    await binding.create()
    assert recorder.envelopes[0][KEY]["roles"] == ["reader"]


@pytest.mark.parametrize("bad", [object(), lambda: None, {"nested": object()}, 2**80, "\ud800"])
def test_metadata_that_cannot_be_stored_is_refused_when_it_is_wrapped(bad: Any) -> None:
    """The host hears of it at once, and not when its first tenant creates something."""
    with pytest.raises(CodecError):
        wrapped(Recorder(), {"tenant_id": "t", "bad": bad})


def test_metadata_that_could_not_be_read_back_is_refused_when_it_is_wrapped() -> None:
    """More elements than are read from anybody would make every instance of the tenant fail later."""
    with pytest.raises(ValueError, match=r"metadata.*65,536"):
        wrapped(Recorder(), {"tenant_id": "t", "numbers": list(range(70_000))})


@pytest.mark.parametrize(
    ("payload", "metadata", "params"),
    [
        ({KEY: {"tenant_id": "t"}, "params": {"x": 1}}, {"tenant_id": "t"}, {"x": 1}),
        ({KEY: {"tenant_id": "t"}, "params": None}, {"tenant_id": "t"}, None),
        ({KEY: None, "params": 1}, None, 1),
        ({KEY: "text", "params": ""}, "text", ""),
        ({KEY: {}, "params": False, "more": 1}, {}, False),
        ({KEY: {"a": 1}, "params": {KEY: {"b": 2}, "params": 3}}, {"a": 1}, {KEY: {"b": 2}, "params": 3}),
    ],
)
def test_an_envelope_is_a_map_with_both_keys_whatever_their_values(payload: Any, metadata: Any, params: Any) -> None:
    """Presence counts, not truth; only the outermost layer is taken off."""
    found, rest = unwrap(values.dumps(payload))
    assert (found, values.loads(rest)) == (metadata, params)


@pytest.mark.parametrize(
    "payload",
    [None, True, 0, 1.5, "text", b"bytes", [], [KEY, "params"], {}, {KEY: {}}, {"params": {}}, {"tenant_id": "t"}],
)
def test_everything_else_is_no_envelope(payload: Any) -> None:
    """And is told apart without asking what it means."""
    with pytest.raises(MissingDispatcherMetadataError, match="raw binding"):
        unwrap(values.dumps(payload))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x82\xa6params\x01", b"\xde\xff\xff", b"\x82\xa1a\x01\xa1a\x02"])
def test_bytes_that_are_no_value_are_no_envelope(data: bytes) -> None:
    """A damaged payload is nobody's, and says so."""
    with pytest.raises(MissingDispatcherMetadataError):
        unwrap(data)


@pytest.mark.parametrize("params", [b"\xc1", b"\x9f" * 2, b"", b"\xdd\xff\xff\xff\xff"])
async def test_params_that_are_encoded_already_are_never_looked_into(params: bytes) -> None:
    """Whatever the bytes are, they come out of the envelope as they went in, if the envelope can be opened at all."""
    recorder = Recorder()
    await wrapped(recorder).create(params=Encoded(values.dumps({"whole": params})))
    _, rest = unwrap(recorder.created[0]["params"].data)
    assert values.loads(rest) == {"whole": params}
