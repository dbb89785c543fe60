"""The wire format of a tick: pack, MIN, unpack against a plain model; every mismatch is named."""

import random

import numpy as np
import pytest

from hicache_ext.agreement import (
    NOT_MINE,
    AgreedSlot,
    AgreedTick,
    SlotState,
    TickHeader,
    TickSchema,
    pack,
    unpack,
)
from hicache_ext.agreement.schema import Packer
from hicache_ext.errors import AgreementError

SCHEMA = TickSchema(["full", "swa"], num_slots=4, num_endpoint_lanes=8)
HEADER = TickHeader(epoch=3, digest=11)
BIG = (1 << 62) - 1


def state(op_id=7, **changes):
    base = SlotState(op_id, step=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))
    return base._replace(**changes)


def reduce_ranks(vectors):
    return np.minimum.reduce(vectors)


def agree(slots_of_ranks, headers=None, rank=0):
    """Packs every rank's slots, reduces, and unpacks as `rank` does."""
    headers = headers or [HEADER] * len(slots_of_ranks)
    packed = [pack(SCHEMA, h, s) for h, s in zip(headers, slots_of_ranks, strict=True)]
    return unpack(SCHEMA, reduce_ranks(packed), 3, packed[rank]).slots


def model_slot(states, endpoint_idx):
    """What lanes.h must compute, in words of Python; None: nothing is decided."""
    alive = [s for s in states if not s.failed]
    any_failed = len(alive) < len(states)
    if not any_failed and not all(s.ready for s in states):
        return None
    columns = range(len(states[0].hits))
    return AgreedSlot(
        op_id=states[0].op_id,
        step=states[0].step,
        min_pages=0 if any_failed else min(s.num_pages for s in states),
        max_pages=max((s.num_pages for s in alive), default=0),
        short=tuple(max((s.short[c] for s in alive), default=0) for c in columns),
        hits=tuple(0 if any_failed else min(s.hits[c] for s in states) for c in columns),
        any_failed=any_failed,
        endpoint_idx=endpoint_idx,
    )


def model_tick(headers, slots_of_ranks, endpoints_of_ranks):
    common = [i for i, flags in enumerate(zip(*endpoints_of_ranks, strict=True)) if all(flags)]
    asking = headers[0].asking_slot
    slots = {
        slot: model_slot(
            [r[slot] for r in slots_of_ranks], min(common, default=-1) if slot == asking else -1
        )
        for slot in slots_of_ranks[0]
    }
    free = tuple(min(column) for column in zip(*(h.free_pages for h in headers), strict=True))
    return AgreedTick({slot: agreed for slot, agreed in slots.items() if agreed}, free)


def random_value(rng):
    return rng.choice([0, 1, rng.randrange(100), rng.randrange(1 << 62), BIG])


def random_ranks(rng, schema, num_ranks):
    """Slots of each rank: the same ops and steps, everything else as it comes."""
    used = rng.sample(range(schema.num_slots), rng.randint(0, schema.num_slots))
    ops = {slot: (random_value(rng), random_value(rng)) for slot in used}

    def one(slot):
        def pools():
            return tuple(random_value(rng) for _ in schema.pools)

        hits = tuple(NOT_MINE if rng.random() < 0.2 else h for h in pools())
        ready, failed = rng.random() < 0.7, rng.random() < 0.2
        return SlotState(*ops[slot], ready, random_value(rng), pools(), hits, failed)

    return [{slot: one(slot) for slot in used} for _ in range(num_ranks)]


def random_headers(rng, schema, num_ranks):
    """Equal but for the free pages."""
    asking = rng.choice([None, rng.randrange(schema.num_slots)])
    same = TickHeader(*(random_value(rng) for _ in range(5)), asking)

    def free():
        return tuple(
            rng.choice([NOT_MINE, random_value(rng)]) for _ in range(2 * len(schema.pools))
        )

    return [same._replace(free_pages=free()) for _ in range(num_ranks)]


@pytest.mark.parametrize("seed", range(300))
def test_fuzz_against_model(seed):
    rng = random.Random(seed)
    pools = [f"pool{i}" for i in range(rng.choice([0, 1, 2, 4, 16]))]
    schema = TickSchema(pools, rng.choice([1, 2, 8]), rng.choice([1, 5, 128]))
    ranks = random_ranks(rng, schema, rng.randint(1, 5))
    headers = random_headers(rng, schema, len(ranks))
    rate = rng.random()
    flags = [bytes(rng.random() < rate for _ in range(schema.num_endpoint_lanes)) for _ in ranks]
    asked = [b"" if h.asking_slot is None else f for h, f in zip(headers, flags, strict=True)]
    packed = [pack(schema, *said) for said in zip(headers, ranks, asked, strict=True)]
    assert all(p.dtype == np.int64 and p.shape == (schema.num_lanes,) for p in packed)
    lanes = reduce_ranks(packed)
    want = model_tick(headers, ranks, flags)
    for mine in packed:
        agreed = unpack(schema, lanes, headers[0].epoch, mine)
        assert agreed == want
        ids = [slot.op_id for slot in agreed.slots.values()]
        assert ids == sorted(ids)


@pytest.mark.parametrize("seed", range(30))
def test_packer_says_the_same_as_pack_from_tick_to_tick(seed):
    """It is told only of slots that come, go and change."""
    rng = random.Random(seed)
    schema = TickSchema(["full", "swa"], 8, 4)
    packer, said = Packer(schema), {}
    for _ in range(30):
        changes = dict(random_ranks(rng, schema, 1)[0])
        changes |= dict.fromkeys(rng.sample(range(8), rng.randrange(8)))
        said = {slot: state for slot, state in (said | changes).items() if state is not None}
        (header,) = random_headers(rng, schema, 1)
        asks = header.asking_slot is not None
        flags = bytes(rng.choices([0, 1], k=rng.randrange(5))) if asks else b""
        lanes = packer.pack(header, changes, flags)
        np.testing.assert_array_equal(lanes, pack(schema, header, said, flags))


def test_packer_goes_on_after_a_state_that_it_refused():
    packer = Packer(SCHEMA)
    packer.pack(HEADER, {0: state(1), 1: state(2)})
    with pytest.raises(AgreementError, match=r"slot\[1\].pages=-3"):
        packer.pack(HEADER, {0: state(4), 1: state(2, num_pages=-3)})
    lanes = packer.pack(HEADER, {0: state(5), 1: None})
    np.testing.assert_array_equal(lanes, pack(SCHEMA, HEADER, {0: state(5)}))


def test_mismatch_in_a_slot_that_is_not_settled_is_an_error():
    with pytest.raises(AgreementError, match=r"\(slot\[2\].op\): this rank has 7"):
        agree([{2: state(op, ready=False)} for op in (7, 8)])


@pytest.mark.parametrize("seed", range(100))
def test_fuzz_any_corrupted_equality_lane_is_named(seed):
    rng = random.Random(seed)
    ranks = random_ranks(rng, SCHEMA, 3)
    packed = [pack(SCHEMA, HEADER, slots) for slots in ranks]
    pairs = [i for i in range(SCHEMA.num_lanes) if is_equality(SCHEMA.lane_name(i), ranks[0])]
    lane, victim = rng.choice(pairs), rng.randrange(3)
    packed[victim][lane] = packed[victim][lane] - 1  # one rank's value is another one
    name = SCHEMA.lane_name(lane).replace("~", "")
    for mine in (p for r, p in enumerate(packed) if r != victim):
        with pytest.raises(AgreementError) as error:
            unpack(SCHEMA, reduce_ranks(packed), 3, mine)
        assert f"({name})" in str(error.value)


def is_equality(name, slots):
    if name.startswith(("free", "endpoint")):
        return False
    if "slot" not in name:
        return True
    slot = int(name[name.index("[") + 1 : name.index("]")])
    return name.endswith("op") or (name.endswith("step") and slot in slots)


@pytest.mark.parametrize("rank", [0, 1])
def test_slot_used_by_one_rank_only_is_detected_on_both(rank):
    with pytest.raises(AgreementError) as error:
        agree([{2: state(op_id=7)}, {}], rank=rank)
    mine = ["7", "-1 (slot unused)"][rank]
    assert str(error.value).endswith(
        f"(slot[2].op): this rank has {mine}, "
        "the smallest of all ranks is -1 (slot unused), the largest 7"
    )


def test_different_ops_in_one_slot():
    with pytest.raises(AgreementError, match=r"slot\[0\]\.op\): this rank has 7, .* 7, .* 9$"):
        agree([{0: state(7)}, {0: state(9)}])
    with pytest.raises(AgreementError, match=r"slot\[0\]\.op\): this rank has 9, .* 7, .* 9$"):
        agree([{0: state(7)}, {0: state(9)}], rank=1)


def test_different_steps():
    with pytest.raises(AgreementError, match=r"slot\[1\]\.step\): this rank has 1, .* 1, .* 2$"):
        agree([{1: state(step=1)}, {1: state(step=2)}])


@pytest.mark.parametrize(
    ("lane", "field"),
    [
        ("epoch", "epoch"),
        ("digest", "digest"),
        ("ops", "num_ops"),
        ("calls", "calls"),
        ("waiting", "num_waiting"),
    ],
)
def test_header_lanes_are_named_with_the_values(lane, field):
    headers = [HEADER._replace(**{field: value}) for value in (5, 8)]
    for rank, mine in enumerate((5, 8)):
        with pytest.raises(AgreementError) as error:
            agree([{}, {}], headers, rank)
        assert str(error.value).endswith(
            f"({lane}): this rank has {mine}, the smallest of all ranks is 5, the largest 8"
        )


def test_ranks_that_let_different_slots_ask_are_told():
    headers = [HEADER, HEADER._replace(asking_slot=2)]
    with pytest.raises(AgreementError, match=r"\(asking\): this rank has -1 \(nobody\), .* 2$"):
        agree([{}, {}], headers)


def test_another_schema_is_told():
    other = TickSchema(["full", "mamba"], num_slots=4, num_endpoint_lanes=8)
    packed = [pack(SCHEMA, HEADER, {}), pack(other, HEADER, {})]
    with pytest.raises(AgreementError, match=rf"\(schema\): this rank has {SCHEMA.hash:#x}"):
        unpack(SCHEMA, reduce_ranks(packed), 3, packed[0])


def test_result_of_another_tick_is_refused():
    mine = pack(SCHEMA, HEADER, {0: state(num_pages=2)})
    old = pack(SCHEMA, HEADER._replace(epoch=2), {0: state(num_pages=2)})
    with pytest.raises(AgreementError, match="epoch"):
        unpack(SCHEMA, old, 3, mine)
    risen = mine.copy()  # a "minimum" above this rank's own value
    risen[SCHEMA.num_lanes - 1] = 0
    lane = next(i for i in range(SCHEMA.num_lanes) if SCHEMA.lane_name(i) == "slot[0].pages")
    risen[lane] = 3
    with pytest.raises(AgreementError, match=r"slot\[0\]\.pages\): this rank has 2"):
        unpack(SCHEMA, risen, 3, mine)


def test_failed_wins_over_ready_and_pages():
    ranks = [{0: state(short=(0, 2))}, {0: state(failed=True, num_pages=9, short=(4, 4))}]
    assert agree(ranks) == {0: AgreedSlot(7, 1, 0, 5, (0, 2), (0, 0), True, -1)}
    everyone = [{0: state(failed=True)}] * 2
    assert agree(everyone) == {0: AgreedSlot(7, 1, 0, 0, (0, 0), (0, 0), True, -1)}


def test_absent_pool_is_not_a_zero():
    ranks = [{0: state(hits=(5, NOT_MINE))}, {0: state(hits=(4, 3))}]
    assert agree(ranks)[0].hits == (4, 3)
    ranks = [{0: state(hits=(5, NOT_MINE))}, {0: state(hits=(4, NOT_MINE))}]
    assert agree(ranks)[0].hits == (4, NOT_MINE)


def test_endpoint_lanes_are_neutral_while_nobody_asks():
    assert set(pack(SCHEMA, HEADER, {})[-8:]) == {NOT_MINE}
    assert list(pack(SCHEMA, HEADER._replace(asking_slot=1), {}, b"\0\1")[-8:]) == [0, 1, *[0] * 6]


def test_number_of_lanes_is_fixed_and_named():
    assert SCHEMA.num_lanes == 14 + 2 * 2 + 4 * (7 + 2 * 2) + 8
    names = [SCHEMA.lane_name(i) for i in range(SCHEMA.num_lanes)]
    assert len(set(names)) == SCHEMA.num_lanes
    pairs = ["schema", "epoch", "digest", "ops", "calls", "waiting", "asking"]
    assert names[:14:2] == pairs and names[1:14:2] == [f"~{pair}" for pair in pairs]
    tiers = ("device", "host")
    assert names[14:18] == [f"free.{tier}[{pool}]" for tier in tiers for pool in SCHEMA.pools]
    assert names[-12:-8] == [
        "slot[3].short[full]",
        "slot[3].hit[full]",
        "slot[3].short[swa]",
        "slot[3].hit[swa]",
    ]
    assert names[-8:] == [f"endpoint[{i}]" for i in range(8)]
    with pytest.raises(IndexError):
        SCHEMA.lane_name(SCHEMA.num_lanes)


def test_hash_tells_configurations_apart():
    hashes = {
        TickSchema(pools, n, e).hash
        for pools in (["full"], ["full", "swa"], ["swa", "full"], ["fulls", "wa"], [])
        for n in (1, 4)
        for e in (1, 8)
    }
    assert len(hashes) == 20
    assert all(0 <= h < 1 << 62 for h in hashes)
    assert TickSchema(["full", "swa"], 4, 8).hash == SCHEMA.hash
