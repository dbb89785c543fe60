"""NcclGroup on an emulated GPU: its start, graphs, errors. Its ticks: test_group_conformance.py."""

import gc

import numpy as np
import pytest
from nccl_world import SCHEMA, Records, World, in_threads
from torch.distributed import HashStore
from waiting import wait_for

from hicache_ext.agreement import (
    NcclGroup,
    Reduction,
    SlotState,
    TickHeader,
    TickSchema,
    pack,
    unpack,
)
from hicache_ext.agreement.nccl_place import Place
from hicache_ext.errors import AgreementError, CudaError

WAYS = [Reduction.ALL_REDUCE, Reduction.ALL_GATHER]
STATE = SlotState(7, step=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))


@pytest.fixture
def world(tmp_path):
    with World(tmp_path, seed=5, num_devices=2) as world:
        yield world


def ticks(groups, vectors):
    for group, lanes in zip(groups, vectors, strict=True):
        group.issue(lanes)
    return [group.result(5.0) for group in groups]


@pytest.mark.parametrize("reduction", WAYS)
def test_kernel_finds_what_unpack_finds(world, reduction):
    groups = world.groups(3, reduction=reduction)
    states = [STATE, STATE._replace(num_pages=4, short=(0, 2)), STATE._replace(hits=(6, 2))]
    records = [Records(world.cuda) for _ in groups]
    mine = [pack(SCHEMA, TickHeader(9, 0), {2: state}) for state in states]
    want = unpack(SCHEMA, np.minimum.reduce(mine), 9, mine[0]).slots
    assert want[2].hits == (5, 2)
    for group, record, state in zip(groups, records, states, strict=True):
        record.say(9, {2: state})
        group.issue_records(*record.addresses)
    assert [group.result_slots(5.0, 9) for group in groups] == [want] * 3
    kind, count = ("all_reduce", "all_gather")[WAYS.index(reduction)], SCHEMA.num_lanes
    assert [call[:2] for call in world.nccl.calls].count((kind, count)) == 3 + 3  # one to warm up


@pytest.mark.parametrize("reduction", WAYS)
def test_kernel_names_the_lane_that_differs(world, reduction):
    groups = world.groups(reduction=reduction)
    for group, epoch in zip(groups, (3, 5), strict=True):
        group.issue(pack(SCHEMA, TickHeader(epoch, 0), {}))
    for group, epoch in zip(groups, (3, 5), strict=True):
        with pytest.raises(AgreementError, match=rf"\(epoch\): this rank has {epoch}, .* 3, .* 5"):
            group.result_slots(5.0, epoch)


# --- the start


def test_ranks_that_differ_do_not_start(world):
    def texts(*options):
        return [str(error) for error in world.try_groups(*options)]

    other = TickSchema(["full", "ssm"], num_slots=4, num_endpoint_lanes=8)
    assert other.num_lanes == SCHEMA.num_lanes
    hashes = f"['{SCHEMA.hash:#x}', '{other.hash:#x}']"
    told = texts({"schema": SCHEMA}, {"schema": other})
    assert told == [f"ranks have different schemas: {hashes}, by rank"] * 2
    longer = TickSchema(["full", "swa"], num_slots=5, num_endpoint_lanes=8)
    lanes = [SCHEMA.num_lanes] * 2 + [longer.num_lanes]
    told = texts({}, {}, {"schema": longer})
    assert told == [f"ranks have different numbers of lanes: {lanes}, by rank"] * 3
    told = texts({}, {"reduction": Reduction.ALL_GATHER})
    assert told == ["ranks have different reductions: ['AUTO', 'ALL_GATHER'], by rank"] * 2


def test_rank_that_does_not_come_is_an_error_within_the_deadline(world):
    comm, place = world.nccl.lend(2)[0], world.place()
    world.cuda.take_calls()
    with pytest.raises(AgreementError, match=r"its start: .* late after 0\.3 s"):
        NcclGroup(SCHEMA, comm, deadline_s=0.3, **place)
    gc.collect()
    kinds = [call.split()[0] for call in world.cuda.take_calls()]
    assert "destroy" in kinds  # its event; but its memory is left to the collective
    assert not {"free_device", "free_pinned"} & set(kinds)


@pytest.mark.parametrize(("slow", "chosen"), [("all_reduce", 1), ("all_gather", 0)])
def test_auto_takes_what_was_faster_for_the_slowest_rank(world, slow, chosen):
    world.nccl.delays_s[slow] = 0.002
    groups = world.groups()
    assert [group.reduction for group in groups] == [WAYS[chosen]] * 2
    why = {group.reduction_why for group in groups}
    assert len(why) == 1 and "median tick of the slowest rank: ALL_REDUCE " in why.pop()
    assert ticks(groups, [np.full(SCHEMA.num_lanes, i + 3) for i in (0, 1)])[0][0] == 3


def test_all_ranks_take_the_same_whatever_each_has_measured(world, monkeypatch):
    """By their own numbers rank 0 would take the all-reduce and rank 1 the all-gather."""
    medians = iter([[10_000, 20_000], [50_000, 30_000]])
    monkeypatch.setattr(
        Place, "_time", lambda *_, num_timed, **__: next(medians) if num_timed > 1 else [0]
    )
    groups = world.groups()
    assert [group.reduction for group in groups] == [Reduction.ALL_GATHER] * 2
    want = "median tick of the slowest rank: ALL_REDUCE 50.0 us, ALL_GATHER 30.0 us"
    assert [group.reduction_why for group in groups] == [want] * 2


def test_a_single_rank_and_a_choice_of_the_caller_need_no_trial(world):
    (group,) = world.groups(1)
    assert (group.reduction, group.reduction_why) == (WAYS[0], "there is one rank")
    # The ranks compare themselves, and NCCL connects them: the first tick is not to wait for that.
    assert [call[:2] for call in world.nccl.calls] == [
        ("all_gather", 3),
        ("all_reduce", SCHEMA.num_lanes),
    ]
    (group,) = world.groups(1, reduction=Reduction.ALL_GATHER)
    assert (group.reduction, group.reduction_why) == (WAYS[1], "ALL_GATHER was asked for")
    assert ticks([group], [np.arange(SCHEMA.num_lanes)])[0].tolist() == [*range(SCHEMA.num_lanes)]


def test_work_is_on_the_groups_device_and_the_callers_comes_back(world):
    comm, place = world.nccl.lend()[0], world.place(1)
    world.cuda.take_calls()
    group = NcclGroup(SCHEMA, comm, **place)
    group.issue(np.zeros(SCHEMA.num_lanes, np.int64))
    group.result(5.0)
    launches = [call for call in world.cuda.take_calls() if call.startswith("launch")]
    assert launches and all("device=1" in call for call in launches)
    assert world.cuda.current_device == 0


# --- graphs


def captured(world, group, stream, records):
    world.nccl.captures = True
    world.cuda.begin_capture(stream)
    group.issue_records(*records.addresses)
    world.cuda.end_capture(stream)
    return lambda: world.cuda.replay(stream)


@pytest.mark.parametrize("reduction", WAYS)
def test_each_replay_is_a_tick_with_the_records_of_its_time(world, reduction):
    place = world.place()
    group = NcclGroup(SCHEMA, world.nccl.lend()[0], reduction=reduction, **place)
    records = Records(world.cuda)
    launch = captured(world, group, place["stream"], records)
    assert not group.ready()  # nothing has started
    for epoch in range(1, 12):
        records.say(epoch, {epoch % 4: STATE._replace(op_id=epoch)})
        if epoch % 3 == 0:  # another tick between the replays
            group.issue(pack(SCHEMA, TickHeader(epoch, 0), {0: STATE}))
            assert group.result_slots(5.0, epoch)[0].op_id == STATE.op_id
        group.replay(launch)
        (slot,) = group.result_slots(5.0, epoch).values()
        assert slot.op_id == epoch


def test_replays_are_counted_as_ticks(world):
    place = world.place()
    group = NcclGroup(SCHEMA, world.nccl.lend()[0], **place)
    num_launched = []
    with pytest.raises(AgreementError, match="no tick was captured"):
        group.replay(lambda: num_launched.append(1))
    launch = captured(world, group, place["stream"], Records(world.cuda))
    with pytest.raises(ZeroDivisionError):
        group.replay(lambda: 1 / 0)
    assert not group.ready()
    group.replay(launch)
    group.replay(launch)
    with pytest.raises(AgreementError, match="2 ticks are uncollected"):
        group.replay(lambda: num_launched.append(1))
    assert num_launched == []
    for _ in range(2):
        group.result_slots(5.0, 0)
    with pytest.raises(AgreementError, match="no tick is issued"):
        group.result(0.0)


def test_what_cannot_be_captured(world):
    place, comm = world.place(), world.nccl.lend()[0]
    group = NcclGroup(SCHEMA, comm, **place)
    world.cuda.take_calls()
    world.cuda.begin_capture(place["stream"])
    with pytest.raises(CudaError, match=r"rank 0: issue\(\) cannot be captured"):
        group.issue(np.zeros(SCHEMA.num_lanes, np.int64))
    with pytest.raises(CudaError, match="cannot meet in a capture"):
        NcclGroup(SCHEMA, comm, **place)
    world.cuda.end_capture(place["stream"])
    assert [call for call in world.cuda.take_calls() if "launch" in call or "copy" in call] == []
    assert ticks([group], [np.ones(SCHEMA.num_lanes, np.int64)])[0][0] == 1


def test_memory_of_a_graph_that_may_run_is_not_freed(world):
    place = world.place()
    group = NcclGroup(SCHEMA, world.nccl.lend()[0], **place)
    launch = captured(world, group, place["stream"], Records(world.cuda))
    group.replay(lambda: None)  # on a stream that the group does not know, and not done
    wait_for(lambda: not world.cuda.num_pending)  # the group's own stream is idle
    world.cuda.take_calls()
    group.close()
    assert not any(call.startswith("free") for call in world.cuda.take_calls())
    launch()


# --- errors


def test_lost_peer_is_told_by_ready_and_result(world):
    group, _ = world.groups(reduction=WAYS[0])
    group.issue(np.zeros(SCHEMA.num_lanes, np.int64))
    assert not group.ready()
    world.nccl.state = 6
    with pytest.raises(AgreementError, match=r"tick 0, rank 0 of 2: .*lost: remote error"):
        group.result(5.0)
    assert group.ready()
    with pytest.raises(AgreementError, match=r"the group is broken, .*lost: remote error"):
        group.result(5.0)
    with pytest.raises(AgreementError, match="remote error"):
        group.issue(np.zeros(SCHEMA.num_lanes, np.int64))


def test_tick_that_was_enqueued_in_part_breaks_the_group(world):
    (group,) = world.groups(1)
    lanes = np.zeros(SCHEMA.num_lanes, np.int64)
    world.nccl.codes["all_reduce"] = 6
    with pytest.raises(CudaError, match="ncclAllReduce failed with 6: remote error"):
        group.issue(lanes)
    world.nccl.codes.clear()
    with pytest.raises(AgreementError, match="the group is broken: ncclAllReduce failed with 6"):
        group.issue(lanes)


def test_unpack_is_enqueued_behind_a_collective_that_connects_first(world):
    """A communicator that does not block may say ncclInProgress before anything is enqueued."""
    (group,) = world.groups(1)
    world.nccl.codes["all_reduce"] = 7
    world.cuda.take_calls()
    lanes = np.arange(SCHEMA.num_lanes)
    np.testing.assert_array_equal(ticks([group], [lanes])[0], lanes)
    names = [call.split()[0:2] for call in world.cuda.take_calls()]
    kinds = [a if a != "launch" else b for a, b in names if a in ("collective", "launch")]
    assert kinds == ["collective", "unpack"]


def test_records_need_addresses(world):
    (group,) = world.groups(1)
    with pytest.raises(AgreementError, match="header=0"):
        group.issue_records(0, 1, 2)
    with pytest.raises(AgreementError, match="comm=0"):
        NcclGroup(SCHEMA, 0, **world.place())
    with pytest.raises(CudaError, match="device=7 num_devices=2"):
        NcclGroup(SCHEMA, world.nccl.lend()[0], **{**world.place(), "device": 7})


def test_third_rank_of_three_is_named_where_there_is_a_store(world):
    groups = world.groups(3, reduction=WAYS[0], store=HashStore())
    for group in groups[:2]:
        group.issue(np.zeros(SCHEMA.num_lanes, np.int64))
    told = in_threads([lambda g=g: g.result(0.4) for g in groups[:2]])
    assert all("rank 2 is late after 0.4 s; ticks issued by" in str(error) for error in told)


def test_memory_is_freed_with_the_group(world):
    (group,) = world.groups(1)
    ticks([group], [np.zeros(SCHEMA.num_lanes, np.int64)])
    world.cuda.take_calls()
    group.close()
    kinds = [call for call in world.cuda.take_calls() if call.startswith("free")]
    assert kinds.count("free_device") == 4 and kinds.count("free_pinned") == 4
