"""Values: what can be sent comes back the same, and no bytes whatever do more harm than a `PayloadError`."""

from __future__ import annotations

import datetime
import random
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.ipc import CapabilityError, CodecError, PayloadError, places, values, walk
from cloister.ipc.packer import Packer

ZONES = st.none() | st.integers(-86_000, 86_000).map(lambda s: datetime.timezone(datetime.timedelta(seconds=s)))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=ZONES)
)
PLAIN = st.recursive(
    SCALARS | st.sets(SCALARS, max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
HEADS = bytes.fromhex("808182909192a0a1a3c0c1c2c4c5c7c8cacbcccdd0d4d5d6d9dadcdddedfff00010203")  # what begins values
BYTES = st.binary(max_size=60) | st.lists(st.sampled_from(HEADS), max_size=40).map(bytes)


@given(PLAIN)
def test_what_is_sent_comes_back_the_same(value: Any) -> None:
    """Numbers, text, bytes, dates, sets, lists and maps survive, types and time zones included."""
    back = values.loads(values.dumps(value))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, datetime.datetime):
        assert back.utcoffset() == value.utcoffset()


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "one"}, {"1": "one"}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (frozenset({1}), {1}),
        (type("Text", (str,), {})("t"), "t"),
        (type("Number", (int,), {})(7), 7),
        (type("Part", (float,), {})(0.5), 0.5),
        (type("Map", (dict,), {})(a=1), {"a": 1}),
        ({type("Key", (str,), {})("k"): 1}, {"k": 1}),
    ],
)
def test_relatives_of_the_plain_types_are_sent_as_the_plain_type(value: Any, back: Any) -> None:
    """A tuple arrives as a list, a whole-number key as text, a sub-class as its base."""
    got = values.loads(values.dumps(value))
    assert got == back
    assert type(got) is type(back)


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "cannot be sent"),
        ([{"a": 1j}], "complex"),
        (datetime.date(2020, 1, 1), "date"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({(1, 2): 3}, "key of a map"),
        ({1.5: 3}, "key of a map"),
        ("\ud800", "surrogates"),
        ({"\ud800": 1}, "surrogates"),
        (LOOP, "64 deep"),
        ({(1, 2)}, "set that holds a tuple"),
        ({frozenset({1})}, "set that holds a frozenset"),
        (int, "cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, words: str) -> None:
    """The sender is told what is wrong, before anything is sent."""
    with pytest.raises(CodecError, match=words):
        values.dumps(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), ""),
        ([object()], "value[0]"),
        ({"a": [1, {"b": object()}]}, "value['a'][1]['b']"),
        ({"a": (2**64,)}, "value['a'][0]"),
        ([{"k": {(1, 2): 3}}], "value[0]['k']"),
        ({"a": [{(1, 2)}]}, "value['a'][0]"),
        (["a", ["\ud800"]], "value[1][0]"),
        ({"k" * 99: object()}, f"value['{'k' * 39}]"),
        (values.Named(([1, object()], {})), "args[1]"),
        (values.Named(((), {"to": [object()]})), "kwargs['to'][0]"),
    ],
)
def test_where_in_a_value_it_is_that_cannot_be_sent_is_said(value: Any, place: str) -> None:
    """As an author would write it; and the error keeps nothing of the value alive."""
    with pytest.raises(CodecError) as caught:
        values.dumps(value)
    assert str(caught.value).partition(", at ")[2] == place
    assert caught.value.part is None


def test_a_place_that_is_not_found_is_not_looked_for_without_end() -> None:
    """A value may hold another many times over, and what is in a set of a set is at no place."""
    wide: list[Any] = []
    for _ in range(60):
        wide = [wide, wide]
    error = CodecError("no", object())
    places.tell(error, wide)
    assert str(error) == "no"


def test_what_is_to_be_awaited_is_told_so() -> None:
    """Which is the likeliest mistake of all."""

    async def forgotten() -> None:
        """Never awaited."""

    coroutine = forgotten()
    with pytest.raises(CodecError, match=r"'coroutine'> cannot be sent; await it, and send its result, at value\[0\]"):
        values.dumps([coroutine])
    coroutine.close()


def test_a_failed_encoding_leaves_nothing_behind() -> None:
    """The shared packer is clean again after a value that could not be packed."""
    with pytest.raises(CodecError):
        values.dumps(["a" * 100, "\ud800"])
    assert values.dumps(1) == b"\x01"


def test_a_value_over_the_limit_is_refused_by_its_size() -> None:
    """The message says how large it is, and how large it may be."""
    with pytest.raises(CodecError, match="takes 105 bytes; at most 50"):
        values.dumps(bytes(103), limit=50)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too early"),
        (b"\xc1", "begins no value"),
        (b"\x92\x01", "too early"),
        (b"\xa5abc", "too early"),
        (b"\xdb\xff\xff\xff\xff", "too early"),
        (b"\xc6\x7f\xff\xff\xff", "too early"),
        (b"\xdd\xff\xff\xff\xff", "too early"),
        (b"\xdf\xff\xff\xff\xff", "too early"),
        (b"\xdc", "end of the value"),
        (b"\x01\x01", "bytes follow"),
        (b"\x81\x01\x02", "key is not text"),
        (b"\x81\xc4\x01a\x02", "key is not text"),
        (b"\x81\x90\x02", "key is not text"),
        (b"\x81\xc0\x02", "key is not text"),
        (b"\x82\xa1a\x01\xa1a\x02", "stands there twice"),
        (b"\x82\xa1a\x01\xd9\x01a\x02", "stands there twice"),
        (nested(65), "64 deep"),
        (nested(10_000_000), "64 deep"),
        (b"\x81\xa1a" * 65 + b"\xc0", "64 deep"),
        (b"\xa1\xff", "cannot be read"),
        (b"\xa3\xed\xa0\x80", "cannot be read"),
        (msgpack.packb(msgpack.ExtType(4, b"")), "unknown extension type 4"),
        (msgpack.packb(msgpack.ExtType(127, b"abc")), "unknown extension type"),
        (msgpack.packb(msgpack.Timestamp(1, 0)), "unknown extension type"),
        (msgpack.packb(msgpack.ExtType(2, b"yesterday")), "cannot be read"),
        (msgpack.packb(msgpack.ExtType(2, b"\xff\xff")), "cannot be read"),
        (msgpack.packb(msgpack.ExtType(2, b"2" * 65)), "a date of 65 bytes"),
        (msgpack.packb(msgpack.ExtType(3, b"\x01")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(3, b"\xa3abc")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(3, b"\xc4\x03abc")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(3, b"\x81\xa1a\x01")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(3, b"")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(1, b"\xa1a")), "not a list inside"),
        (msgpack.packb(msgpack.ExtType(3, b"\x91\x90")), "cannot be read"),
        (msgpack.packb(msgpack.ExtType(3, b"\x92\x01")), "too early"),
        (msgpack.packb(msgpack.ExtType(3, b"\x91\x01\x01")), "bytes follow"),
        (msgpack.packb(msgpack.ExtType(1, b"\x90")), "capability stands where only plain data"),
        (b"\x81\xa1a\xc1", "begins no value"),
    ],
)
def test_malformed_bytes_are_refused_with_what_is_wrong(data: bytes, words: str) -> None:
    """Each kind of malformed value has its words, and costs no memory to find."""
    with pytest.raises(PayloadError, match=words):
        values.loads(data)


def test_the_deepest_value_that_can_be_sent_can_be_read() -> None:
    """Both ends draw the line of depth in the same place, for lists, maps and sets."""
    deepest: Any = {1}
    for _ in range(walk.MAX_DEPTH - 1):
        deepest = [deepest]
    assert values.loads(values.dumps(deepest)) == deepest
    with pytest.raises(CodecError, match="64 deep"):
        values.dumps([deepest])


@pytest.mark.parametrize("wrap", [lambda part: [part], lambda part: {"a": part}])
def test_elements_are_counted_to_the_limit(wrap: Any) -> None:
    """Keys and values count; as many as the limit pass, one more does not."""
    room = walk.MAX_ELEMENTS - values.scan(values.dumps(wrap([])))
    assert values.scan(values.dumps(wrap([None] * room))) == walk.MAX_ELEMENTS
    with pytest.raises(PayloadError, match="65,536 elements"):
        values.loads(values.dumps(wrap([None] * (room + 1))))


@pytest.mark.parametrize("code", [walk.SET, walk.CAPABILITY])
def test_elements_inside_sets_and_references_count_too(code: int) -> None:
    """A thousand sets of a thousand elements are a million elements, and so are a thousand references."""
    part = msgpack.packb(msgpack.ExtType(code, msgpack.packb(list(range(1000)))))
    with pytest.raises(PayloadError, match="elements"):
        values.loads(b"\xdc\x03\xe8" + part * 1000, adopt=lambda _: None)


@pytest.mark.parametrize("code", [walk.SET, walk.CAPABILITY])
def test_what_takes_a_call_of_its_own_to_read_counts_sixteen(code: int) -> None:
    """And the words of the refusal are those of the whole, wherever in it the limit was crossed."""
    part = msgpack.packb(msgpack.ExtType(code, msgpack.packb([0, 1])))
    assert values.scan(b"\x91" + part) == 1 + 16 + 3
    fitting, crossing = (count.to_bytes(2, "big") + part * count for count in (3449, 3450))
    assert values.scan(b"\xdc" + fitting) == 1 + 3449 * 19
    for data in (b"\xdc" + crossing, b"\xdc" + (65_520).to_bytes(2, "big") + b"\xc0" * 65_519 + part):
        with pytest.raises(PayloadError, match="more than 65,536 elements"):
            values.scan(data)


def test_references_in_references_are_no_way_to_any_depth() -> None:
    """The depth inside an extension is part of the depth of the whole."""
    data = b"\x90"
    for _ in range(200):
        data = msgpack.packb([msgpack.ExtType(walk.CAPABILITY, data)])
    with pytest.raises(PayloadError, match="deep"):
        values.loads(data, adopt=lambda _: None)


def test_capabilities_go_through_the_functions_of_the_caller() -> None:
    """What stands for an object, and what it becomes on the other side, is none of this module's business."""
    thing = object()
    data = values.dumps([thing, 1], export=lambda subject: values.dumps(["ref"]) if subject is thing else None)
    assert values.loads(data, adopt=lambda body: ("adopted", values.loads(body))) == [("adopted", ["ref"]), 1]
    with pytest.raises(CodecError, match="cannot be sent"):
        values.dumps({thing}, export=lambda _: b"\x90")


def test_what_adopting_raises_of_the_package_keeps_its_class() -> None:
    """A capability that was never granted is told from a value that cannot be read."""

    def adopt(_: bytes) -> object:
        raise CapabilityError("never granted")

    with pytest.raises(CapabilityError, match="never granted"):
        values.loads(values.dumps([object()], export=lambda _: b"\x90"), adopt=adopt)


def test_maps_go_through_the_hook() -> None:
    """Every map, the inner ones too."""

    class Map(dict[str, Any]):
        pass

    got = values.loads(values.dumps({"a": [{"b": 1}]}), hook=Map)
    assert type(got) is Map
    assert type(got["a"][0]) is Map


@given(BYTES)
@example(b"\xdc\x00")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\xc7\x00\x03")
def test_random_bytes_raise_payload_errors_and_nothing_else(data: bytes) -> None:
    """`loads`, `scan` and `split` take any bytes at all."""
    for read in (values.loads, values.scan, values.split, lambda d: values.loads(d, adopt=values.loads)):
        try:
            read(data)
        except PayloadError:
            continue


@given(PLAIN, st.randoms(use_true_random=False))
def test_damaged_values_raise_payload_errors_and_nothing_else(value: Any, chance: random.Random) -> None:
    """Bytes changed, inserted, lost or cut off anywhere in a well-formed value."""
    data = bytearray(values.dumps([value, {"k": {1, 2}}]))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at:at] = bytes([chance.randrange(256)])
            case 2:
                del data[at : at + chance.randint(1, 3)]
            case 3:
                data[at:] = b""
    for read in (values.loads, values.scan, values.split):
        try:
            read(bytes(data))
        except PayloadError:
            continue


def well_formed(data: bytes) -> bool:
    """What msgpack itself makes of the bytes' structure."""
    reader = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
    reader.feed(data)
    try:
        reader.skip()
    except (msgpack.UnpackException, ValueError):
        return False
    return reader.tell() == len(data)


@given(BYTES)
def test_scan_passes_nothing_that_msgpack_refuses(data: bytes) -> None:
    """A value that was scanned ends exactly where its bytes end."""
    try:
        values.scan(data)
    except PayloadError:
        return
    assert well_formed(data)


class Counted(list[tuple[int, int, int]]):
    """Counts how often it is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("item", [7, -3, 2.5, None, True, 1 << 40, "short"])
def test_long_lists_of_what_is_short_are_passed_quickly(item: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each element by itself would take the loop ten times as long, for all that there may be twenty milliseconds."""
    heads = Counted(walk._HEADS)
    monkeypatch.setattr(walk, "_HEADS", heads)
    assert values.scan(values.dumps([[item] * 60_000, {"key": [item] * 5000}])) == 65_005
    assert heads.looks < 20
    with pytest.raises(PayloadError, match="more than 65,536 elements"):
        values.scan(values.dumps([[item] * 65_530, [item] * 20]))


@given(st.binary(max_size=80), st.integers(0, 20))
def test_passing_quickly_comes_to_the_same(data: bytes, most: int) -> None:
    """Whatever the bytes are, wherever they end, and however many elements there may be."""

    def told() -> object:
        try:
            return values.scan(bytes([0xDC, 0, 9]) + data, max_elements=most)
        except PayloadError as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_SHORT", 0)
        quickly = told()
        patch.setattr(walk, "_STEPS", bytes(256))
        assert told() == quickly


@given(PLAIN)
def test_scan_passes_everything_that_is_sent(value: Any) -> None:
    """And counts at least one element for it."""
    assert values.scan(values.dumps(value)) >= 1


@pytest.mark.parametrize("value", [2**31, -(2**31), 1.5, "x" * 300, "x" * 70_000, b"x" * 300, b"x" * 70_000])
def test_every_width_of_length_is_understood(value: Any) -> None:
    """Short and long forms of numbers, text and bytes, also where the sender chose one that is wider than needed."""
    assert values.loads(values.dumps([value, {"k": value}])) == [value, {"k": value}]
    wide = b"\xdd" + struct.pack(">I", 1) + b"\xdf" + struct.pack(">I", 1) + b"\xdb" + struct.pack(">I", 1) + b"a\xc0"
    assert values.loads(wide) == [{"a": None}]


@given(st.dictionaries(st.text(max_size=20), PLAIN, max_size=5))
def test_a_map_can_be_taken_apart_and_put_together_without_reading_it(value: dict[str, Any]) -> None:
    """The parts are the bytes of the values, and joined they are the map again."""
    data = values.dumps(value)
    parts = values.split(data)
    assert isinstance(parts, dict)
    assert {key: values.loads(part) for key, part in parts.items()} == value
    assert values.join(parts) == data


def test_a_list_is_taken_apart_one_level_deep() -> None:
    """However long and deep the parts are."""
    deep = b"\x91" * 60 + b"\xc0"
    long = values.dumps("x" * 100_000)
    assert values.split(b"\x92" + deep + long) == [deep, long]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\xa1a", b"\xc1", b"\x92\x01", b"\x91\x01\x01", b"\x81\x01\x01", b"\x82\xa1a\x01\xa1a\x01",
     b"\x81\x90\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" + nested(100_000)],
)  # fmt: skip
def test_what_is_neither_a_map_nor_a_list_cannot_be_taken_apart(data: bytes) -> None:
    """Malformed bytes, other values, and keys that are not text or stand there twice."""
    with pytest.raises(PayloadError):
        values.split(data)


def test_what_a_failure_leaves_behind_does_not_come_before_the_next_value() -> None:
    """The packer keeps what it had when memory ran out; the next value begins afresh."""

    class Fails:
        def __call__(self, value: object) -> bytes:
            raise MemoryError

    packer = Packer()
    packer._pack = Fails()
    with pytest.raises(MemoryError):
        packer("first")
    assert packer("next") == b"\xa4next"


def test_not_even_where_there_is_no_memory_for_another_packer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made for the next value, and not in the midst of the failure."""

    def fail(*_: object, **__: object) -> bytes:
        raise MemoryError

    packer = Packer()
    with monkeypatch.context() as without_memory:
        without_memory.setattr(msgpack, "Packer", fail)
        packer._pack = fail
        for _ in range(2):
            with pytest.raises(MemoryError):
                packer("first")
    assert packer("next") == b"\xa4next"


def looked_at(data: bytes, max_depth: int) -> int | str:
    """What comes of a look at bytes."""
    try:
        return values.scan(data, max_depth=max_depth, max_elements=9)
    except PayloadError as error:
        return str(error)


@given(
    BYTES | PLAIN.map(values.dumps) | st.tuples(st.lists(PLAIN, max_size=9), st.just({}) | PLAIN).map(values.dumps),
    st.integers(0, 2),
)
def test_what_is_short_is_found_to_be_the_same_as_if_it_were_walked(data: bytes, max_depth: int) -> None:
    """As many elements, or refused in the same words."""
    found = looked_at(data, max_depth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_flat", lambda *_: 0)
        assert looked_at(data, max_depth) == found


@given(BYTES | PLAIN.map(values.dumps) | st.lists(st.none() | st.integers(-9, 9) | st.text()).map(values.dumps))
def test_a_short_list_of_leaves_is_read_at_once_and_nothing_else_is(data: bytes) -> None:
    """As it would be read after a look at it."""
    value = values.leaves(data)
    if value is not None:
        assert repr(value) == repr(values.loads(data))  # numbers that are none included
        assert len(data) <= 512
        assert not any(isinstance(part, dict | list | set) for part in value)


@given(PLAIN)
def test_a_value_of_plain_types_alone_can_be_sent_without_a_look_at_it(value: Any) -> None:
    """The bytes are the same."""
    plain = values.loads(values.dumps(value))
    assert values.loads(values.dumps(plain, exact=True)) == plain
    with pytest.raises(CodecError, match="cannot be sent"):
        values.dumps([1, dict], exact=True)
    assert values.loads(values.dumps([{1}, plain], exact=True)) == [{1}, plain]  # nothing is left of what failed
