"""The wire format of a tick: pack, MIN, unpack against a plain model; every mismatch is named."""

import random

import numpy as np
import pytest

from hicache_ext.agreement import NOT_MINE, AgreedSlot, SlotState, TickSchema, pack, unpack
from hicache_ext.agreement.schema import Packer, unpack_settled
from hicache_ext.errors import AgreementError

SCHEMA = TickSchema(["full", "swa"], num_slots=4)
BIG = (1 << 62) - 1


def state(op_id=7, **changes):
    base = SlotState(op_id, step=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))
    return base._replace(**changes)


def reduce_ranks(vectors):
    return np.minimum.reduce(vectors)


def agree(slots_of_ranks, *, schema=SCHEMA, epochs=None, digests=None, rank=0):
    """Packs every rank's slots, reduces, and unpacks as `rank` does."""
    epochs = epochs or [3] * len(slots_of_ranks)
    digests = digests or [11] * len(slots_of_ranks)
    packed = [
        pack(schema, e, d, s) for e, d, s in zip(epochs, digests, slots_of_ranks, strict=True)
    ]
    return unpack(schema, reduce_ranks(packed), epochs[rank], packed[rank])


def model_slot(states):
    """What lanes.h must compute, in words of Python."""
    alive = [s for s in states if not s.failed]
    any_failed = len(alive) < len(states)
    columns = range(len(states[0].hits))
    return AgreedSlot(
        op_id=states[0].op_id,
        step=states[0].step,
        all_ready=not any_failed and all(s.ready for s in states),
        min_pages=0 if any_failed else min(s.num_pages for s in states),
        max_pages=max((s.num_pages for s in alive), default=0),
        short=tuple(max((s.short[c] for s in alive), default=0) for c in columns),
        hits=tuple(0 if any_failed else min(s.hits[c] for s in states) for c in columns),
        any_failed=any_failed,
    )


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


@pytest.mark.parametrize("seed", range(300))
def test_fuzz_against_model(seed):
    rng = random.Random(seed)
    pools = [f"pool{i}" for i in range(rng.choice([0, 1, 2, 4, 16]))]
    schema = TickSchema(pools, num_slots=rng.choice([1, 2, 8]))
    ranks = random_ranks(rng, schema, rng.randint(1, 5))
    epoch, digest = random_value(rng), random_value(rng)
    packed = [pack(schema, epoch, digest, slots) for slots in ranks]
    assert all(p.dtype == np.int64 and p.shape == (schema.num_lanes,) for p in packed)
    lanes = reduce_ranks(packed)
    want = {slot: model_slot([r[slot] for r in ranks]) for slot in ranks[0]}
    for mine, slots in zip(packed, ranks, strict=True):
        assert unpack(schema, lanes, epoch, mine) == want
        assert unpack(schema, lanes, epoch, slots) == want
        assert unpack(schema, lanes, epoch, slots, digest=digest) == want
        settled = {i: slot for i, slot in want.items() if slot.all_ready or slot.any_failed}
        assert unpack_settled(schema, lanes, epoch, mine) == settled


@pytest.mark.parametrize("seed", range(30))
def test_packer_says_the_same_as_pack_from_tick_to_tick(seed):
    """Slots come, go and change owners; some states are the objects of the tick before."""
    rng = random.Random(seed)
    schema = TickSchema(["full", "swa"], num_slots=8)
    packer, said = Packer(schema), {}
    for epoch in range(30):
        for slot, new in random_ranks(rng, schema, 1)[0].items():
            said[slot] = rng.choice([new, said.get(slot, new)])
        for slot in rng.sample(sorted(said), rng.randrange(len(said) + 1)):
            del said[slot]
        lanes = packer.pack(epoch, 5, said)
        np.testing.assert_array_equal(lanes, pack(schema, epoch, 5, said))


def test_packer_goes_on_after_a_state_that_it_refused():
    packer = Packer(SCHEMA)
    packer.pack(1, 5, {0: state(1), 1: state(2)})
    with pytest.raises(AgreementError, match=r"slot\[1\].pages=-3"):
        packer.pack(2, 5, {0: state(4), 1: state(2, num_pages=-3)})
    for slots in ({1: state(9)}, {}):
        np.testing.assert_array_equal(packer.pack(3, 5, slots), pack(SCHEMA, 3, 5, slots))


def test_mismatch_in_a_slot_that_is_not_settled_is_an_error():
    vectors = [pack(SCHEMA, 3, 11, {2: state(op, ready=False)}) for op in (7, 8)]
    with pytest.raises(AgreementError, match=r"\(slot\[2\].op\): this rank has 7"):
        unpack_settled(SCHEMA, reduce_ranks(vectors), 3, vectors[0])


@pytest.mark.parametrize("seed", range(100))
def test_fuzz_any_corrupted_equality_lane_is_named(seed):
    rng = random.Random(seed)
    ranks = random_ranks(rng, SCHEMA, 3)
    packed = [pack(SCHEMA, 3, 11, slots) for slots in ranks]
    pairs = [i for i in range(SCHEMA.num_lanes) if is_equality(SCHEMA.lane_name(i), ranks[0])]
    lane, victim = rng.choice(pairs), rng.randrange(3)
    packed[victim][lane] = packed[victim][lane] - 1  # one rank's value is another one
    name = SCHEMA.lane_name(lane).replace("~", "")
    for mine in (p for r, p in enumerate(packed) if r != victim):
        with pytest.raises(AgreementError) as error:
            unpack(SCHEMA, reduce_ranks(packed), 3, mine)
        assert f"({name})" in str(error.value)


def is_equality(name, slots):
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


def test_header_lanes_are_named_with_the_values():
    slots = [{}, {}]
    with pytest.raises(AgreementError, match=r"\(epoch\): this rank has 3, .* is 3, the largest 4"):
        agree(slots, epochs=[3, 4])
    with pytest.raises(
        AgreementError, match=r"\(digest\): this rank has 5, .* is 5, the largest 8"
    ):
        agree(slots, digests=[5, 8])
    other = TickSchema(["full", "mamba"], num_slots=4)
    packed = [pack(SCHEMA, 3, 11, {}), pack(other, 3, 11, {})]
    with pytest.raises(AgreementError, match=rf"\(schema\): this rank has {SCHEMA.hash:#x}"):
        unpack(SCHEMA, reduce_ranks(packed), 3, packed[0])


def test_digest_that_differs_with_a_mapping():
    packed = [pack(SCHEMA, 3, 5, {}), pack(SCHEMA, 3, 8, {})]
    with pytest.raises(AgreementError, match=r"\(digest\): this rank has \?, .* is 5, .* 8"):
        unpack(SCHEMA, reduce_ranks(packed), 3, {})
    with pytest.raises(AgreementError, match=r"\(digest\): this rank has 8, .* is 5, .* 8"):
        unpack(SCHEMA, reduce_ranks(packed), 3, {}, digest=8)


def test_result_of_another_tick_is_refused():
    mine = pack(SCHEMA, 3, 11, {0: state(num_pages=2)})
    old = pack(SCHEMA, 2, 11, {0: state(num_pages=2)})
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
    assert agree(ranks) == {0: AgreedSlot(7, 1, False, 0, 5, (0, 2), (0, 0), True)}
    everyone = [{0: state(failed=True)}] * 2
    assert agree(everyone) == {0: AgreedSlot(7, 1, False, 0, 0, (0, 0), (0, 0), True)}


def test_absent_pool_is_not_a_zero():
    ranks = [{0: state(hits=(5, NOT_MINE))}, {0: state(hits=(4, 3))}]
    assert agree(ranks)[0].hits == (4, 3)
    ranks = [{0: state(hits=(5, NOT_MINE))}, {0: state(hits=(4, NOT_MINE))}]
    assert agree(ranks)[0].hits == (4, NOT_MINE)


def test_number_of_lanes_is_fixed_and_named():
    assert SCHEMA.num_lanes == 6 + 4 * (7 + 2 * 2)
    names = [SCHEMA.lane_name(i) for i in range(SCHEMA.num_lanes)]
    assert len(set(names)) == SCHEMA.num_lanes
    assert names[:6] == ["schema", "~schema", "epoch", "~epoch", "digest", "~digest"]
    assert names[-4:] == [
        "slot[3].short[full]",
        "slot[3].hit[full]",
        "slot[3].short[swa]",
        "slot[3].hit[swa]",
    ]
    with pytest.raises(IndexError):
        SCHEMA.lane_name(SCHEMA.num_lanes)


def test_hash_tells_configurations_apart():
    hashes = {
        TickSchema(pools, num_slots=n).hash
        for pools in (["full"], ["full", "swa"], ["swa", "full"], ["fulls", "wa"], [])
        for n in (1, 4)
    }
    assert len(hashes) == 10
    assert all(0 <= h < 1 << 62 for h in hashes)
    assert TickSchema(["full", "swa"], 4).hash == SCHEMA.hash


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
        pack(SCHEMA, 0, 0, slots)


@pytest.mark.parametrize(("epoch", "digest"), [(-1, 0), (1 << 62, 0), (0, -1), (0, 1 << 62)])
def test_bad_header(epoch, digest):
    with pytest.raises(AgreementError, match=r"not in \[0, 2\^62\)"):
        pack(SCHEMA, epoch, digest, {})


def test_wrong_number_of_lanes():
    mine = pack(SCHEMA, 0, 0, {})
    with pytest.raises(AgreementError, match="the schema has 50"):
        unpack(SCHEMA, mine[:-1], 0, mine)
    with pytest.raises(AgreementError, match="the schema has 50"):
        unpack(SCHEMA, mine, 0, mine[:-1])
