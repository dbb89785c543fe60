/* The ticks of a shared-memory group whose ranks have met: csrc/host/shm_group.cpp.
 *
 * Any number of ticks: they are counted from the oldest one that some rank has yet to collect, so
 * tick 0 is always that one, and the model has finitely many states. A slot holds the number of its
 * tick, BUSY while it is written, OLD once everyone has collected it: whoever reads during a write,
 * or the lanes of another tick, finds something else than it expects.
 */
#ifndef N
#define N 3
#endif
#ifndef FAILURES
#define FAILURES 1 /* ranks that Fate may strike */
#endif
#ifndef DEPTH
#define DEPTH 2
#endif
#ifndef BUFFERS
#define BUFFERS (2 * DEPTH)
#endif
#ifndef IN_FLIGHT
#define IN_FLIGHT DEPTH
#endif
#define BUSY 254
#define OLD 255

/* killed: seen by is_dead(). stopped: for good, or in another pid namespace; only a deadline helps.
 * late: some deadline of a peer may pass, then it goes on. leaving: it closes the group. */
mtype = { alive, killed, stopped, late, leaving }

typedef Line { /* ShmRankLine and the slots of one rank */
  byte num_issued = 0;
  byte num_waiters = 0;
  bool closed = false;
  byte slot[BUFFERS] = OLD
}

Line line[N];
byte num_collected[N] = 0;
byte sleeps_on[N] = N; /* the kernel's queues: whose number a rank sleeps on; N: awake */
mtype fate[N] = alive;
byte num_struck = 0;

#define STANDS(r) (fate[r] == killed || fate[r] == stopped)
#define HAS_ISSUED(r) (line[r].num_issued > num_collected[me])
#define DEADLINES_PASS (fate[0] == stopped || fate[1] == stopped || fate[N - 1] == stopped)
#define DEADLINES_MAY_PASS (fate[0] == late || fate[1] == late || fate[N - 1] == late)

#ifdef DEAD_ARE_NOT_LOOKED_FOR
#define IS_LOST(r) line[r].closed
#else
#define IS_LOST(r) (line[r].closed || fate[r] == killed)
#endif

inline wake_all() {
  d_step {
    for (i : 0 .. N - 1) {
      if
      :: sleeps_on[i] == me -> sleeps_on[i] = N
      :: else
      fi
    }
    i = 0
  }
}

#define SLEEPS_IN_VAIN(r) (sleeps_on[r] == me && line[me].num_issued > num_collected[r])
#define NOBODY_SLEEPS_IN_VAIN \
  assert(!SLEEPS_IN_VAIN(0) && !SLEEPS_IN_VAIN(1) && !SLEEPS_IN_VAIN(N - 1))

/* Begins with the guard of Rank. The last lanes and the number are one step: whoever reads between
 * them would have read a moment earlier as well, and met BUSY. */
inline issue() {
  atomic {
    line[me].num_issued - num_collected[me] < IN_FLIGHT ->
#ifdef NUMBER_BEFORE_LANES
    line[me].num_issued++
  }
  line[me].slot[(line[me].num_issued - 1) % BUFFERS] = line[me].num_issued - 1;
#else
    line[me].slot[line[me].num_issued % BUFFERS] = BUSY
  }
#ifdef WAITERS_BEFORE_NUMBER
  i = line[me].num_waiters > 0;
#endif
  atomic {
    line[me].slot[line[me].num_issued % BUFFERS] = line[me].num_issued;
    line[me].num_issued++
  }
#endif
#ifndef WAITERS_BEFORE_NUMBER
  i = line[me].num_waiters > 0;
#endif
  if
  :: i -> wake_all()
  :: !i -> NOBODY_SLEEPS_IN_VAIN
  fi
}

/* i: the first rank that has not issued the oldest tick, or N. One step: a rank that has issued it
 * stays so, hence the last look decides. */
inline first_missing() {
  i = 0;
  do
  :: i < N && HAS_ISSUED(i) -> i++
  :: else -> break
  od
}

/* FUTEX_WAIT compares and queues in one step. A sleep's own end counts only once somebody fails:
 * before, it would hide a lost wake-up. */
inline futex_wait() {
  atomic {
    if
#ifdef FUTEX_DOES_NOT_COMPARE
    :: true -> sleeps_on[me] = peer
#else
    :: HAS_ISSUED(peer)
    :: !HAS_ISSUED(peer) -> sleeps_on[me] = peer
#endif
    fi
  }
  if
  :: sleeps_on[me] == N
  :: atomic { num_struck > 0 -> sleeps_on[me] = N }
  fi
}

inline sleep_for() {
  line[peer].num_waiters++;
  if
  :: HAS_ISSUED(peer)
  :: !HAS_ISSUED(peer) ->
    if
    :: line[peer].closed
    :: !line[peer].closed -> futex_wait()
    fi
  fi
}

/* i: a rank that will never issue the oldest tick, or N. One step: whoever is lost stays so and
 * issues no more, hence the second look at its number decides. */
inline lost_rank() {
  i = 0;
  do
#ifdef NO_SECOND_LOOK
  :: i < N && !(i == peer && IS_LOST(i)) -> i++
#else
  :: i < N && !(IS_LOST(i) && !HAS_ISSUED(i)) -> i++
#endif
  :: else -> break
  od
}

/* Begins with the guard of Rank. i: N once the oldest tick is there, else a rank that is lost or
 * late. */
inline wait() {
  do
  :: atomic { line[me].num_issued > num_collected[me] -> first_missing() }
    if
    :: i == N -> break
    :: i < N
    fi;
    peer = i;
    sleep_for();
    atomic {
      line[peer].num_waiters--;
      lost_rank();
      peer = 0;
      assert(i == N || !HAS_ISSUED(i)); /* no error about a tick that is there */
      if
      :: i == N && !DEADLINES_PASS
      :: i == N && (DEADLINES_PASS || DEADLINES_MAY_PASS) -> first_missing(); break
      :: i < N -> break
      fi
    }
  od
}

#define RENUMBERED(tick) (tick == BUSY -> BUSY : (tick == OLD || tick == 0 -> OLD : tick - 1))

hidden byte b, oldest;

/* Once everyone has collected tick 0, tick 1 is called 0 and its slot the first. */
inline count_from_next() {
  i = 0;
  do
  :: num_collected[0] > 0 && num_collected[1] > 0 && num_collected[N - 1] > 0 ->
    for (i : 0 .. N - 1) {
      num_collected[i]--;
      line[i].num_issued--;
      oldest = line[i].slot[0];
      for (b : 0 .. BUFFERS - 2) { line[i].slot[b] = RENUMBERED(line[i].slot[b + 1]) }
      line[i].slot[BUFFERS - 1] = RENUMBERED(oldest)
    }
    i = 0
  :: else -> break
  od
}

inline collect() {
  i = 0;
  do
  :: atomic {
      i < N ->
      assert(line[i].num_issued <= num_collected[me] + 2 * DEPTH);
      assert(line[i].slot[num_collected[me] % BUFFERS] == num_collected[me]);
      i++;
      if
      :: i < N
      :: i == N -> num_collected[me]++; count_from_next(); break
      fi
    }
  od
}

inline close() {
  line[me].closed = true;
  wake_all()
}

proctype Rank(byte me) {
  byte peer = 0, i = 0;
  {
    do
    :: issue()
    :: wait();
      if
      :: i < N -> close(); break
      :: i == N -> progress: collect()
      fi
    :: fate[me] == leaving -> close(); break
    od
  } unless { STANDS(me) }
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
        :: fate[victim] = stopped
        :: fate[victim] = late
        :: fate[victim] = leaving
        fi
      :: else
      fi;
      victim = 0
    }
  :: break
  od
}

init {
  atomic {
    byte r;
    for (r : 0 .. N - 1) { run Rank(r) }
    r = 0;
    run Fate()
  }
}

