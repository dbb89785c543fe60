/* How the ranks of a shared-memory group meet under a name, and meet again after they were killed:
 * csrc/host/shm_door.cpp, ShmGroup::attach.
 *
 * The name may stand for a file that an earlier job has left, in any condition. N ranks come
 * to meet under it; with TROUBLE they may run into their deadline or leave once they have met, with
 * KILLS some are killed in any of their steps. A stranger, rank 0 of a group of another name,
 * removes what it finds abandoned.
 */
#ifndef N
#define N 3
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifdef EXTRA /* one process more, which takes itself for this rank */
#define RANKS (N + 1)
#define RANK (me < N -> me : EXTRA)
#else
#define RANKS N
#define RANK me
#endif
#define STRANGER RANKS
#define NOBODY (RANKS + 1)
#ifndef FILES
#define FILES 3
#endif
#define NONE FILES

mtype = { free, maker, remover } /* a file's lock: on all of it, on all but its first byte */
mtype = { absent, present, closed }

typedef File {
  byte holder = NOBODY;
  mtype lock = free;
  bool complete = false; /* the magic number is there */
  mtype presence[N] = absent;
  byte owner[N] = NOBODY
}

File file[FILES];
byte named = NONE;            /* what the name stands for */
byte fd[RANKS] = NONE;        /* ShmSegment::fd_ */
byte segment[RANKS] = NONE;   /* what is mapped */
byte stale[RANKS + 1] = NONE; /* the descriptor of remove_stale() and of the stranger */
bool doomed[RANKS] = false;
bool dead[RANKS + 2] = false; /* as /proc tells it, which is later than the locks go */
bool met[RANKS + 2] = false;
byte num_kills = 0;
hidden byte b, c, in_use;

#define HOLDS(f) (file[f].holder == me)

#ifdef REMOVER_LOCKS_ALL
#define HAS_LIVING_MAKER(f) (file[f].lock != free)
#else
#define HAS_LIVING_MAKER(f) (file[f].lock == maker)
#endif

inline take(f, range) { file[f].lock = range; file[f].holder = me }

/* A lock goes with the descriptor that holds it. */
inline close_fd(f) {
  if
  :: f < NONE && HOLDS(f) -> file[f].lock = free; file[f].holder = NOBODY
  :: else
  fi;
  f = NONE;
  forget_unused()
}

inline look_who_uses(f) {
  in_use = named == f || stale[STRANGER] == f;
  for (b : 0 .. RANKS - 1) {
    in_use = in_use || fd[b] == f || segment[b] == f || stale[b] == f
  }
  b = 0
}

/* A file that has no name and that nobody has open or mapped is gone. */
inline forget_unused() {
  for (c : 0 .. FILES - 1) {
    look_who_uses(c);
    if
    :: !in_use ->
      file[c].complete = false;
      for (b : 0 .. N - 1) { file[c].presence[b] = absent; file[c].owner[b] = NOBODY }
    :: else
    fi
  }
  c = 0
}

/* Only what is still named goes, and never a group whose rank 0 waits for it. */
inline unlink_name(f) {
  atomic { assert(named == f && (file[f].lock != maker || HOLDS(f))); named = NONE }
}

/* shm_open(O_CREAT | O_EXCL) */
inline new_file() {
  c = 0;
  do
  :: c < FILES ->
    look_who_uses(c);
    if
    :: in_use -> c++
    :: else -> break
    fi
  :: else -> break
  od;
  assert(c < FILES);
  named = c;
  fd[me] = c
}

/* `stale[me]` was opened by the name. Removes that, if no living rank 0 waits behind it. */
inline remove_stale() {
  if
#ifdef REMOVE_WITHOUT_LOCK
  :: true ->
#else
  :: atomic { file[stale[me]].lock == free -> take(stale[me], remover) }
#endif
    if
    :: named == stale[me] -> unlink_name(stale[me])
    :: named != stale[me]
    fi
#ifdef ANY_LOCK_IS_IN_USE
  :: file[stale[me]].lock != free -> is_in_use = true
#else
  :: file[stale[me]].lock == maker -> is_in_use = true
  :: file[stale[me]].lock == remover /* it is gone at the next look */
#endif
  fi;
  d_step { close_fd(stale[me]) }
}

inline create() {
  if
  :: d_step { named == NONE -> new_file() }
    if
#ifdef MAKER_DOES_NOT_LOCK
    :: true
#else
    :: atomic { file[fd[me]].lock == free -> take(fd[me], maker) }
    :: atomic { file[fd[me]].lock != free -> close_fd(fd[me]) }
#endif
    fi;
    if
    :: fd[me] == NONE
#ifdef MAKER_DOES_NOT_LOOK_AGAIN
    :: fd[me] != NONE ->
#else
    :: atomic { fd[me] != NONE && named != fd[me] -> close_fd(fd[me]) }
    :: fd[me] != NONE && named == fd[me] ->
#endif
      claim_line();
      atomic {
        file[segment[me]].complete = true;
        assert(named == segment[me]) /* the others will find it */
      }
    fi
  :: atomic { named != NONE -> stale[me] = named }
    remove_stale();
    failed = is_in_use
  fi
}

inline claim_line() {
  atomic {
    segment[me] = fd[me];
    if
#ifdef CLAIM_WHAT_IS_TAKEN
    :: true ->
#else
    :: file[segment[me]].presence[RANK] != absent ->
      failed = true;
      segment[me] = NONE; /* not ours to close */
      d_step { close_fd(fd[me]) }
    :: file[segment[me]].presence[RANK] == absent ->
#endif
      file[segment[me]].presence[RANK] = present;
      file[segment[me]].owner[RANK] = me
    fi
  }
}

/* `fd[me]` was opened by the name. */
inline open_existing() {
  if
#ifdef ENTER_WITHOUT_LOCK
  :: true ->
#else
  :: d_step { !HAS_LIVING_MAKER(fd[me]) -> close_fd(fd[me]) }
  :: HAS_LIVING_MAKER(fd[me]) ->
#endif
    if
    :: d_step { !file[fd[me]].complete -> close_fd(fd[me]) }
    :: file[fd[me]].complete -> claim_line()
    fi
  fi
}

#define PRESENCE(i) file[segment[me]].presence[i]
#define OWNER(i) file[segment[me]].owner[i]

/* One step: ranks only come, leave and die, so the looks at all ranks can be moved to one moment. */
inline look_who_has_left() {
  d_step {
    for (b : 0 .. N - 1) {
      failed = failed || (PRESENCE(b) == present && dead[OWNER(b)]);
      if
      :: PRESENCE(b) == closed -> left = b
      :: else
      fi
    }
    b = 0
  }
}

inline look_who_is_there() {
  d_step {
    all = true;
    for (b : 0 .. N - 1) { all = all && PRESENCE(b) != absent }
    b = 0
  }
}

/* all, or failed, or neither: not yet. */
inline have_all_come() {
#ifdef LEFT_IS_LOOKED_AT_LAST
  look_who_is_there();
  look_who_has_left();
#else
  look_who_has_left();
  look_who_is_there();
#endif
  atomic {
    all = all && !failed;
    if
    :: !failed && !all && left < N ->
      assert(!met[OWNER(left)]); /* who met has seen us */
      failed = true
    :: else
    fi;
    left = N
  }
}

inline close_door() {
  if
  :: RANK == 0 && named == fd[me] -> unlink_name(fd[me])
  :: else
  fi;
  d_step { close_fd(fd[me]) }
}

/* ShmGroup::close and ShmSegment::give_up */
inline leave() {
  if
  :: segment[me] != NONE -> file[segment[me]].presence[RANK] = closed
  :: segment[me] == NONE
  fi;
  if
  :: !met[me] ->
    if
    :: fd[me] != NONE && RANK == 0 && named == fd[me] -> unlink_name(fd[me])
    :: else
    fi;
    d_step { close_fd(fd[me]) }
    if
    :: atomic { named != NONE -> stale[me] = named }
      remove_stale()
    :: named == NONE
    fi
  :: met[me]
  fi
}

proctype Rank(byte me) {
  byte left = N;
  bool failed = false, all = false, is_in_use = false;
  {
end_without_the_others:
    do
    :: failed || all -> break
    :: segment[me] == NONE && RANK == 0 && !failed -> create()
    :: atomic {
        segment[me] == NONE && RANK != 0 && !failed && named != NONE -> fd[me] = named
      }
      open_existing()
    :: segment[me] != NONE && !failed && !all -> have_all_come()
#ifdef TROUBLE
    :: !failed && !all -> failed = true /* the deadline of attach() */
#endif
    od;
    if
    :: all -> assert(OWNER(RANK) == me); met[me] = true; close_door()
    :: failed
    fi;
#ifdef TROUBLE
    leave()
#else
end:
    failed -> leave()
#endif
  } unless { doomed[me] };
  d_step {
    segment[me] = NONE;
    close_fd(fd[me]);
    close_fd(stale[me])
  }
  dead[me] = true
}

proctype Killer() {
  byte victim;
  do
  :: num_kills < KILLS ->
    atomic {
      select(victim : 0 .. RANKS - 1);
      doomed[victim] = true;
      victim = 0;
      num_kills++
    }
  :: break
  od
}

/* remove_abandoned() of another group: it leaves alone what is not complete. */
proctype Stranger(byte me) {
  bool is_in_use;
end:
  do
  :: atomic { named != NONE && file[named].complete -> stale[me] = named }
    remove_stale();
    is_in_use = false
  od
}

/* What an earlier job may have left behind: all of its ranks are dead. */
inline leave_a_file() {
  named = 0;
  dead[NOBODY] = true;
  if
  :: file[0].complete = true
  :: true
  fi;
  for (r : 0 .. N - 1) {
    if
    :: file[0].presence[r] = present
    :: file[0].presence[r] = closed
    :: true
    fi
  }
}

init {
  byte r;
  atomic {
    if
    :: leave_a_file()
    :: true
    fi;
    for (r : 0 .. RANKS - 1) { run Rank(r) }
    r = 0;
    run Killer();
#ifndef NO_STRANGER
    run Stranger(STRANGER)
#endif
  }
}

/* Whatever an earlier job has left behind: the ranks meet, none gets an error. */
ltl all_meet { <> (met[0] && met[1] && met[N - 1]) }
