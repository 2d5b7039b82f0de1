"""A batch for many tenants: which shard has what of it, in what order, and that each piece can be sent."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.engine import Encoded, PinnedCode
from cloister.ipc import CodecError, values
from cloister.loader.shards.pieces import LARGE, divided
from cloister.loader.shards.place import number_of

CODE = PinnedCode(b"d" * 32, b"code")


def batch(size: int, **options: Any) -> list[tuple[str, PinnedCode, dict[str, Any]]]:
    """So many tenants."""
    return [(f"t{number}", CODE, {"id": f"i{number}", **options}) for number in range(size)]


def test_each_entry_goes_to_its_tenants_shard_in_the_order_it_was_given() -> None:
    """One piece for each shard that has any; places say where in the batch they were."""
    pieces = divided(batch(40), 3)
    assert sorted(piece.shard for piece in pieces) == [0, 1, 2]
    for piece in pieces:
        assert piece.places == sorted(piece.places)
        assert [tenant_id for tenant_id, *_ in piece.entries] == [f"t{place}" for place in piece.places]
        assert {number_of(tenant_id, 3) for tenant_id, *_ in piece.entries} == {piece.shard}
    assert sorted(place for piece in pieces for place in piece.places) == list(range(40))
    assert divided([], 3) == []


def test_params_and_code_go_as_the_bytes_that_are_stored() -> None:
    """Nobody reads them on the way; what is encoded already stays as it is."""
    (piece,) = divided([("t", CODE, {"params": {"a": 1}}), ("t", CODE, {"params": Encoded(b"\x01")})], 1)
    assert [entry[1:] for entry in piece.entries] == [
        (CODE.digest, b"code", {"params": values.dumps({"a": 1})}),
        (CODE.digest, b"code", {"params": b"\x01"}),
    ]
    with pytest.raises(CodecError, match=r"cannot be sent; send plain values, at value\[0\]"):
        divided([("t", CODE, {"params": [object()]})], 1)
    with pytest.raises(TypeError, match="the options of an instance are a dict, not int"):
        divided([("t", CODE, 3)], 1)  # type: ignore[list-item]


@pytest.mark.parametrize("large", ["code", "params"])
def test_another_piece_begins_where_one_is_large(large: str) -> None:
    """Be it by its code or by its params, so that each fits into a frame."""
    size = LARGE // 3
    code = PinnedCode(b"d", b"c" * size) if large == "code" else CODE
    options = {"params": b"p" * size} if large == "params" else {}
    pieces = divided([("t", code, options)] * 7, 1)
    assert [piece.places for piece in pieces] == [[0, 1], [2, 3], [4, 5], [6]] or (
        [piece.places for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6]]
    )
    for piece in pieces:
        values.dumps(piece.entries)


def test_one_that_is_larger_than_a_piece_is_a_piece() -> None:
    """And nothing is before it."""
    assert [piece.places for piece in divided([("t", PinnedCode(b"d", bytes(2 * LARGE)), {})] * 2, 1)] == [[0], [1]]


def test_a_piece_has_no_more_than_a_host_takes() -> None:
    """Which is what `Host.begin_each` does in one transaction."""
    assert [len(piece.entries) for piece in divided([("t", CODE, {})] * 2001, 1)] == [1000, 1000, 1]
