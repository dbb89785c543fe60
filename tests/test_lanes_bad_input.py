"""What cannot be packed or unpacked: an AgreementError with slot, field and value."""

import numpy as np
import pytest

from hicache_ext.agreement import NOT_MINE, SlotState, TickHeader, TickSchema, pack, unpack
from hicache_ext.agreement.schema import LaneError
from hicache_ext.errors import AgreementError

SCHEMA = TickSchema(["full", "swa"], num_slots=4, num_endpoint_lanes=8)
HEADER = TickHeader(epoch=3, digest=11)


def state(op_id=7, **changes):
    base = SlotState(op_id, step=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))
    return base._replace(**changes)


@pytest.mark.parametrize("pools", [["full", "full"], [""], [f"p{i}" for i in range(17)]])
def test_bad_pools(pools):
    with pytest.raises(AgreementError):
        TickSchema(pools)


@pytest.mark.parametrize(
    ("slots", "what"),
    [
        ({4: state()}, r"slot=4 not in \[0, 4\)"),
        ({-1: state()}, "slot=-1"),
        ({0: state(op_id=-1)}, r"slot\[0\]\.op=-1"),
        ({0: state(num_pages=1 << 62)}, r"slot\[0\]\.pages=4611686018427387904"),
        ({0: state(num_pages=1 << 80)}, r"slot\[0\]\.pages=1208925819614629174706176"),
        ({0: state(num_pages=NOT_MINE)}, r"slot\[0\]\.pages"),
        ({0: state(short=(0, -3))}, r"slot\[0\]\.short=-3"),
        ({0: state(hits=(1,))}, r"slot\[0\]\.hit: want a tuple of 2"),
        ({0: (1, 2, 3)}, "want a SlotState"),
    ],
)
def test_bad_states(slots, what):
    with pytest.raises(AgreementError, match=what):
        pack(SCHEMA, HEADER, slots)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"epoch": -1}, r"epoch=-1 not in \[0, 2\^62\)"),
        ({"epoch": 1 << 62}, "epoch=4611686018427387904"),
        ({"digest": -1}, "digest=-1"),
        ({"num_ops": 1 << 80}, "num_ops=1208925819614629174706176"),
        ({"calls": -2}, "calls=-2"),
        ({"num_waiting": NOT_MINE}, "num_waiting="),
        ({"asking_slot": 4}, r"asking_slot=4 not in \[0, 4\)"),
        ({"asking_slot": -1}, "asking_slot=-1"),
        ({"free_pages": (1, 2)}, r"free_pages: want a tuple of 4 values, got \(1, 2\)"),
        ({"free_pages": (1, 2, 3, -4)}, "free_pages=-4"),
    ],
)
def test_bad_header(changes, what):
    with pytest.raises(AgreementError, match=what):
        pack(SCHEMA, HEADER._replace(**changes), {})


def test_bad_endpoints():
    with pytest.raises(AgreementError, match="9 endpoints, of at most 8"):
        pack(SCHEMA, HEADER._replace(asking_slot=0), {0: state()}, bytes(9))
    with pytest.raises(AgreementError, match="1 endpoints, of at most 0: nobody asks"):
        pack(SCHEMA, HEADER, {0: state()}, bytes(1))
    with pytest.raises(AgreementError, match="num_endpoints=0"):
        TickSchema(["full"], num_endpoint_lanes=0)
    with pytest.raises(AgreementError, match="want a TickHeader"):
        pack(SCHEMA, (3, 11), {})


def test_wrong_number_of_lanes():
    mine = pack(SCHEMA, HEADER, {})
    want = f"the schema has {SCHEMA.num_lanes}"
    with pytest.raises(AgreementError, match=want):
        unpack(SCHEMA, mine[:-1], 3, mine)
    with pytest.raises(AgreementError, match=want):
        unpack(SCHEMA, mine, 3, mine[:-1])


@pytest.mark.parametrize("name", ["free.host[swa]", "endpoint[3]", "slot[0].hit[full]"])
def test_a_minimum_above_what_this_rank_sent_is_named(name):
    """Not a minimum over this rank's lanes of this tick."""
    header = HEADER._replace(asking_slot=0, free_pages=(4, 4, 4, 4))
    mine = pack(SCHEMA, header, {0: state()}, b"\1\1\1\1")
    lane = next(i for i in range(SCHEMA.num_lanes) if SCHEMA.lane_name(i) == name)
    risen = mine.copy()
    risen[lane] += 2
    with pytest.raises(AgreementError) as error:
        unpack(SCHEMA, risen, 3, mine)
    assert f"lane {lane} ({name}): this rank has {mine[lane]}" in str(error.value)


@pytest.mark.parametrize("what", ["VERSION", "_C.LANE_FORMAT"])
def test_another_version_or_lane_format_is_another_schema(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = TickSchema(["full"])
    monkeypatch.setattr(f"hicache_ext.agreement.schema.{what}", 99)
    other = TickSchema(["full"])
    assert mine.hash != other.hash and mine.num_lanes == other.num_lanes
    assert " 99," in other.text


@pytest.mark.parametrize(("slot", "garbage"), [(2, -5), (2, 2), (2, NOT_MINE), (1, 1), (1, -5)])
def test_ready_lane_of_garbage_is_an_error_on_every_rank(slot, garbage):
    """No rank would ever see such an op settle; slot 1 is unused, and must not settle."""
    lane = next(i for i in range(SCHEMA.num_lanes) if SCHEMA.lane_name(i) == f"slot[{slot}].ready")
    ranks = [pack(SCHEMA, HEADER, {2: state()}) for _ in range(3)]
    ranks[1][lane] = garbage
    if garbage in (2, NOT_MINE):  # a larger one is not seen beside an honest one, which wins
        unpack(SCHEMA, np.minimum.reduce(ranks), 3, ranks[0])
        ranks = [ranks[1].copy() for _ in range(3)]
    for mine in ranks:
        with pytest.raises(LaneError, match=rf"\(slot\[{slot}\]\.ready\)") as error:
            unpack(SCHEMA, np.minimum.reduce(ranks), 3, mine)
        assert error.value.is_seen_by_all
        assert str(error.value).endswith(f"of all ranks is {garbage}; that is garbage")


def test_ready_lane_that_rose_is_not_seen_by_all():
    mine = pack(SCHEMA, HEADER, {2: state(ready=False)})
    agreed = pack(SCHEMA, HEADER, {2: state(ready=True)})
    with pytest.raises(LaneError) as error:
        unpack(SCHEMA, agreed, 3, mine)
    assert not error.value.is_seen_by_all
