"""The table of ops by itself: who is asked what, and what a slot says when its op has left it."""

from __future__ import annotations

from hicache_ext.agreement import AgreedSlot, SlotState
from hicache_ext.flow.op import Op, OpTable, Phase
from hicache_ext.flow.record import PrefetchRecord


class FakeOp(Op):
    """Counts how often it is asked; `over`: the next apply() ends it."""

    def __init__(self, op_id: int) -> None:
        super().__init__(op_id, PrefetchRecord(op_id, 0, 0), Phase.READ)
        self.num_asked, self.over = 0, False

    def start(self) -> None:
        pass

    def state(self) -> SlotState:
        self.num_asked += 1
        return SlotState(self.op_id, self.step, True, self.num_asked, (), ())

    def apply(self, agreed: AgreedSlot) -> bool:
        self._enter(Phase.DONE if self.over else Phase.READ)
        return self.over

    def cancel(self) -> None:
        pass


def agreed(op: Op) -> AgreedSlot:
    return AgreedSlot(op.op_id, op.step, 0, 0, (), (), False, -1)


def table_of(*ops: Op, num_slots: int = 4) -> OpTable:
    table = OpTable(num_slots)
    for op in ops:
        table.add(op)
    table.admit()
    return table


def changes(table: OpTable) -> dict[int, SlotState | None]:
    said, *_ = table.say(8)
    return said


def test_an_op_is_asked_when_it_tells_and_only_then() -> None:
    first, second = FakeOp(1), FakeOp(2)
    table = table_of(first, second)
    assert set(changes(table)) == {0, 1}
    assert changes(table) == {}
    second.tell()
    assert set(changes(table)) == {1}
    assert (first.num_asked, second.num_asked) == (1, 2)


def test_what_is_told_while_the_op_is_asked_is_for_the_next_tick() -> None:
    class Interrupted(FakeOp):
        def state(self) -> SlotState:
            said = super().state()
            if self.num_asked == 1:
                self.tell()  # as an I/O thread does whose call ends after the look
            return said

    op = Interrupted(1)
    table = table_of(op)
    assert [len(changes(table)) for _ in range(3)] == [1, 1, 0]


def test_an_op_that_is_over_leaves_a_free_slot_and_speaks_no_more() -> None:
    op = FakeOp(1)
    table = table_of(op)
    changes(table)
    op.over = True
    assert table.apply({0: agreed(op)}) == [op]
    op.tell()  # a late end of its I/O, on this rank alone
    assert changes(table) == {0: None}
    assert op.num_asked == 1
    table.add(FakeOp(2))
    table.admit()
    op.tell()
    (state,) = changes(table).values()
    assert state is not None and state.op_id == 2


def test_results_for_an_older_step_are_dropped() -> None:
    op = FakeOp(1)
    table = table_of(op)
    old = agreed(op)
    table.apply({0: old})
    op.over = True
    assert table.apply({0: old}) == []
    assert table.apply({0: agreed(op)}) == [op]


def test_ops_told_before_they_have_a_slot_are_asked_once_they_have() -> None:
    first, waiting = FakeOp(1), FakeOp(2)
    table = table_of(first, waiting, num_slots=1)
    waiting.tell()
    assert set(changes(table)) == {0} and waiting.num_asked == 0
    first.over = True
    table.apply({0: agreed(first)})
    table.admit()
    (state,) = changes(table).values()
    assert state is not None and state.op_id == 2


def test_an_op_that_rests_leaves_its_slot_and_comes_back() -> None:
    first, second = FakeOp(1), FakeOp(2)
    table = table_of(first, second, num_slots=1)
    first.over, first.rest_ticks = True, 3
    assert table.apply({0: agreed(first)}) == [] and len(table) == 2
    table.admit()
    assert changes(table)[0].op_id == 2  # type: ignore[union-attr]
    second.over = True
    assert table.apply({0: agreed(second)}) == [second] and len(table) == 1
    first.over = False
    for slot in (None, 0):
        table.admit()
        assert first.slot == slot
    first.over = True
    assert table.apply({0: agreed(first)}) == [first] and len(table) == 0
