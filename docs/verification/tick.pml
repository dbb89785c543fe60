/* The tick: python/hicache_ext/flow/engine.py and op.py, over any group that hands everyone the MIN
 * of an epoch once all ranks have issued it (for shared memory, shm_group.pml shows that it does).
 *
 * Any number of ticks: epochs are counted from the oldest that some rank has yet to apply, so epoch
 * 0 is always that one. One slot; an op in it asks, reserves at most twice, reads, and commits or
 * drains. Whether an op arrives, when I/O ends, who lacks pages and who aborts is left open.
 */
#ifndef N
#define N 3
#endif
#ifndef DEPTH
#define DEPTH 1
#endif
#ifndef FAILURES
#define FAILURES 0 /* ranks that Fate may strike */
#endif
#define EPOCHS (2 * (DEPTH + 1)) /* a rank may be one tick ahead of one that is DEPTH behind */

#ifdef LIVENESS
#define IO_MAY_LAST (!MY.in_io || MY.vote != NOT_READY) /* at most a tick */
#else
#define IO_MAY_LAST true
#endif

/* Phases with the number of transitions: what travels as `step`. */
#define IDLE 0
#define QUERY 1
#define RESERVE 2
#define RESERVE_AGAIN 3
#define READ 4
#define DRAIN 5
#define GARBAGE 100 /* above any op and step */

/* Votes, so ordered that the MIN is what all ranks say together. */
#define FAILED 0
#define NOT_READY 1
#define SHORT 2
#define READY 3
#define NO_VOTE 4

/* killed: as the group says it. late: a deadline may pass, then it goes on. garbled: it says
 * something about another op, once. */
mtype = { alive, killed, late, garbled }

typedef Epoch { /* the lanes of one tick, reduced over the ranks that have issued it */
  byte vote = NO_VOTE;
  byte low = 255;  /* op and step, as (x, ~x) carries them */
  byte high = 0;
  byte after = 255; /* what the first rank to apply it came to: the others must come to the same */
  bool decided = false;
  bool arrives = false /* whether the scheduler adds an op before this tick, on every rank */
}

typedef Rank { /* of one rank */
  byte num_issued = 0;
  byte num_applied = 0;
  bit op = 0; /* the op's id: one of two, an older one is over everywhere */
  byte step = IDLE;
  bool in_io = false; /* store or copy still uses pages of the op */
  bool told = false;
  bool has_pages = false;
  byte vote = READY;
  bool gone = false /* closed the group after an error */
}

Epoch epoch[EPOCHS];
Rank rank[N];
mtype fate[N] = alive;
bool some_short[2]; /* of the op: a rank got no pages at its second try */
byte num_struck = 0;
hidden byte b;

#define MY rank[me]
#define THIS epoch[MY.num_issued] /* that publish() is about */
#define OLDEST MY.num_applied /* the epoch that apply() is about */
#ifdef STEP_IS_PHASE
#define TAG (MY.op * 16 + (MY.step == RESERVE_AGAIN -> RESERVE : MY.step))
#else
#define TAG (MY.op * 16 + MY.step)
#endif
#define HAS_ISSUED(r) (rank[r].num_issued > OLDEST)
#define ALL_HAVE_ISSUED (HAS_ISSUED(0) && HAS_ISSUED(1) && HAS_ISSUED(N - 1))
#define IS_LOST(r) (!HAS_ISSUED(r) && (rank[r].gone || fate[r] == killed))
#define SOME_LOST (IS_LOST(0) || IS_LOST(1) || IS_LOST(N - 1))
#define SOME_LATE (fate[0] == late || fate[1] == late || fate[N - 1] == late)
#define HEALTHY (num_struck == 0)

inline enter(next) {
  MY.step = next;
  MY.vote = READY; /* until state() */
  MY.told = true
}

/* OpTable.admit: the same on every rank, since all have applied the same epochs. */
inline admit() {
  if
  :: MY.step == IDLE && !THIS.decided ->
    THIS.decided = true;
    if
    :: THIS.arrives = true
    :: true
    fi
  :: else
  fi;
  if
  :: MY.step == IDLE && THIS.arrives -> MY.op = !MY.op; MY.in_io = true; enter(QUERY)
  :: else
  fi
}

/* Op.state: this rank's vote on the step that it is in. */
inline look() {
  if
  :: MY.step == RESERVE || MY.step == RESERVE_AGAIN -> MY.vote = (MY.has_pages -> READY : SHORT)
  :: MY.step != RESERVE && MY.step != RESERVE_AGAIN -> MY.vote = (MY.in_io -> NOT_READY : READY)
  :: MY.step != DRAIN -> MY.vote = FAILED /* aborted, or its copy failed */
  fi
}

/* Group.issue */
inline issue() {
  if
  :: fate[me] == garbled -> tag = GARBAGE + me; fate[me] = alive
  :: else -> tag = TAG
  fi;
  THIS.vote = (MY.step != IDLE && MY.vote < THIS.vote -> MY.vote : THIS.vote);
  THIS.low = (tag < THIS.low -> tag : THIS.low);
  THIS.high = (tag > THIS.high -> tag : THIS.high);
  MY.num_issued++;
  tag = 0
}

/* FlowEngine.publish. An op is asked only if it was told of (its entry in the mailbox), which is
 * taken out before the look: what ends from then on is told again. */
inline publish() {
  atomic {
    admit();
#ifdef IO_THREADS
    asked = MY.told;
#ifndef MAILBOX_EMPTIED_LAST
    MY.told = false
#endif
  }
  atomic {
#else
    if
    :: MY.in_io -> MY.in_io = false; MY.told = true /* it ended before this tick */
    :: IO_MAY_LAST
    fi;
    asked = MY.told;
    MY.told = false;
#endif
    if
    :: asked && MY.step != IDLE -> look()
    :: else
    fi;
    issue();
    asked = false
  }
#ifdef MAILBOX_EMPTIED_LAST
  MY.told = false
#endif
}

inline end_op() {
  assert(!MY.in_io); /* its pages go back or into the tree */
  MY.has_pages = false;
  MY.vote = READY;
  MY.told = false;
  some_short[!MY.op] = false;
  MY.step = IDLE
}

/* Reservation: pages are there or not; nobody else's affair. */
inline try_to_reserve() {
  if
  :: MY.has_pages = true
  :: MY.has_pages = false
  fi
}

/* Op.apply, with what all ranks say together. */
inline move(agreed) {
  if
  :: agreed == NOT_READY || MY.step == IDLE
#ifdef ABORT_FREES_AT_ONCE
  :: agreed == FAILED && MY.step != DRAIN -> end_op()
#else
  :: agreed == FAILED && MY.step != DRAIN -> MY.has_pages = false; enter(DRAIN)
#endif
  :: agreed > NOT_READY && MY.step == QUERY -> try_to_reserve(); enter(RESERVE)
  :: agreed == SHORT && MY.step == RESERVE ->
    try_to_reserve();
    some_short[MY.op] = some_short[MY.op] || !MY.has_pages;
    enter(RESERVE_AGAIN)
  :: agreed == SHORT && MY.step == RESERVE_AGAIN ->
    assert(some_short[MY.op]); /* refused by this vote, not by the one before */
    end_op()
  :: agreed == READY && (MY.step == RESERVE || MY.step == RESERVE_AGAIN) ->
    assert(MY.has_pages);
    MY.has_pages = false; /* no longer asked for */
    MY.in_io = true;
    enter(READ)
  :: agreed > NOT_READY && (MY.step == READ || MY.step == DRAIN) -> end_op()
  fi
}

/* OpTable.apply: what was said about a step that is over is dropped. */
inline apply_to_op() {
  if
#ifdef STALE_IS_APPLIED
  :: true -> move(epoch[OLDEST].vote)
#else
#ifdef OWN_VOTE_DECIDES
  :: epoch[OLDEST].low == TAG -> move(MY.vote)
#else
  :: epoch[OLDEST].low == TAG -> move(epoch[OLDEST].vote)
#endif
  :: else
#endif
  fi
}

/* Everyone has applied epoch 0: epoch 1 is called 0 from now on. */
inline count_from_next() {
  if
  :: rank[0].num_applied > 0 && rank[1].num_applied > 0 && rank[N - 1].num_applied > 0 ->
    for (b : 0 .. N - 1) { rank[b].num_applied--; rank[b].num_issued-- }
    for (b : 0 .. EPOCHS - 2) {
      epoch[b].vote = epoch[b + 1].vote;
      epoch[b].low = epoch[b + 1].low;
      epoch[b].high = epoch[b + 1].high;
      epoch[b].after = epoch[b + 1].after;
      epoch[b].decided = epoch[b + 1].decided;
      epoch[b].arrives = epoch[b + 1].arrives
    }
    epoch[EPOCHS - 1].vote = NO_VOTE;
    epoch[EPOCHS - 1].low = 255;
    epoch[EPOCHS - 1].high = 0;
    epoch[EPOCHS - 1].after = 255;
    epoch[EPOCHS - 1].decided = false;
    epoch[EPOCHS - 1].arrives = false
  :: else
  fi
}

/* FlowEngine._apply_oldest, once its result is there. */
inline apply_oldest() {
  assert(ALL_HAVE_ISSUED);
  if
#ifdef LANES_ARE_NOT_VERIFIED
  :: true ->
#else
  :: epoch[OLDEST].low != epoch[OLDEST].high -> assert(!HEALTHY); failed = true
  :: epoch[OLDEST].low == epoch[OLDEST].high ->
#endif
    assert(epoch[OLDEST].high < GARBAGE);
    apply_to_op();
    if
    :: epoch[OLDEST].after == 255 -> epoch[OLDEST].after = TAG
    :: else -> assert(epoch[OLDEST].after == TAG) /* agreement */
    fi;
    MY.num_applied++;
    count_from_next()
  fi
}

/* FlowEngine.apply. Whoever has not issued the epoch and is lost, or is late, is an error. */
inline apply() {
  do
  :: atomic { MY.num_issued - MY.num_applied <= DEPTH -> break }
  :: atomic {
      MY.num_issued - MY.num_applied > DEPTH && ALL_HAVE_ISSUED ->
      apply_oldest();
#ifdef APPLY_THE_NEWEST
      do
      :: !failed && MY.num_issued > MY.num_applied && ALL_HAVE_ISSUED -> apply_oldest()
      :: else -> break
      od;
#endif
      if
      :: failed -> break
      :: else
      fi
    }
#ifdef GO_ON_WITHOUT_THE_DEAD
  :: atomic { MY.num_issued - MY.num_applied > DEPTH && SOME_LOST -> apply_oldest() }
#endif
#ifndef THE_DEAD_ARE_WAITED_FOR
  :: atomic { MY.num_issued - MY.num_applied > DEPTH && SOME_LOST -> failed = true; break }
#endif
  :: atomic {
      MY.num_issued - MY.num_applied > DEPTH && SOME_LATE && !ALL_HAVE_ISSUED ->
      failed = true;
      break
    }
  od
}

proctype Scheduler(byte me) {
  byte tag = 0;
  bool asked = false;
  bool failed = false;
  {
    do
    :: failed -> break
    :: !failed ->
      publish();
      apply();
#ifdef LIVENESS
      if
      :: MY.step == IDLE -> progress: skip
      :: else
      fi
#endif
    od;
    MY.gone = true
  } unless { fate[me] == killed }
}

/* The I/O thread of a rank: what it does ends, and then it says so (Op._call, Op.tell). */
proctype Io(byte me) {
end:
  do
  :: atomic { MY.in_io -> MY.in_io = false }
    MY.told = true
  od
}

/* Strikes at most FAILURES ranks, each in any of its steps, or none. */
proctype Fate() {
  byte victim;
  do
  :: num_struck < FAILURES ->
    atomic {
      select(victim : 0 .. N - 1);
      if
      :: fate[victim] == alive ->
        num_struck++;
        if
        :: fate[victim] = killed
        :: fate[victim] = late
        :: fate[victim] = garbled
        fi
      :: else
      fi;
      victim = 0
    }
  :: break
  od
}

init {
  byte r;
  atomic {
    for (r : 0 .. N - 1) {
      run Scheduler(r);
#ifdef IO_THREADS
      run Io(r)
#endif
    }
    r = 0;
    run Fate()
  }
}
