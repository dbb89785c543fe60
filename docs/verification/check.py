"""Runs Spin over the models: the good ones must hold, every mutant must be found.

    python docs/verification/check.py        # prints a line for each run

Needs `spin` and `gcc`. tests/test_verification.py runs the same list.
"""

import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent

# How a model is searched: flags for gcc, then for the verifier. Fairness: a process that can go on
# does so at some time.
MODES = {
    "safety": (["-DSAFETY", "-DNOCLAIM"], []),
    "progress": (["-DNP", "-DNFAIR=4", "-DNOCLAIM"], ["-l", "-f"]),
    "claim": (["-DNFAIR=4"], ["-a", "-f"]),
}
MAX_DEPTH = 3_000_000
MAX_MEMORY_MB = 3000


class Run(NamedTuple):
    """One search of one model."""

    model: str
    mode: str
    switches: str
    finds: str = ""
    """What a mutant is found by, as Spin says it; empty: nothing may be found."""

    def __str__(self) -> str:
        return f"{self.model} {self.mode} {self.switches}".strip()


GOOD = [
    Run("shm_group", "safety", "N=3 FAILURES=0"),
    Run("shm_group", "safety", "N=3 DEPTH=1"),
    Run("shm_group", "safety", "N=2 FAILURES=2"),
    Run("shm_group", "progress", "N=3 DEPTH=1 FAILURES=0"),
    Run("shm_group", "progress", "N=2"),
    Run("shm_door", "claim", "N=3"),
    Run("shm_door", "safety", "N=3 TROUBLE NO_STRANGER"),
    Run("shm_door", "safety", "N=2 TROUBLE KILLS=2"),
    Run("shm_door", "safety", "N=2 TROUBLE EXTRA=0 NO_STRANGER FILES=5"),
    Run("shm_door", "safety", "N=2 EXTRA=1"),
    Run("tick", "safety", "N=3"),
    Run("tick", "safety", "N=3 DEPTH=0"),
    Run("tick", "safety", "N=3 DEPTH=0 FAILURES=1"),
    Run("tick", "safety", "N=2 FAILURES=1"),
    Run("tick", "progress", "N=3 DEPTH=0 LIVENESS"),
    Run("tick", "progress", "N=2 LIVENESS"),
    Run("tick", "progress", "N=2 DEPTH=0 LIVENESS IO_THREADS"),
]

ASSERTION, CYCLE, STUCK = (
    "assertion violated",
    "(acceptance|non-progress) cycle",
    "invalid end state",
)
MUTANTS = [
    Run("shm_group", "safety", "N=2 BUFFERS=2", ASSERTION),
    Run("shm_group", "safety", "N=2 BUFFERS=3", ASSERTION),
    Run("shm_group", "safety", "N=2 IN_FLIGHT=3", ASSERTION),
    Run("shm_group", "safety", "N=2 NUMBER_BEFORE_LANES", ASSERTION),
    Run("shm_group", "safety", "N=2 NO_SECOND_LOOK", ASSERTION),
    Run("shm_group", "safety", "N=2 WAITERS_BEFORE_NUMBER", ASSERTION),
    Run("shm_group", "safety", "N=2 FUTEX_DOES_NOT_COMPARE FAILURES=0", STUCK),
    Run("shm_group", "progress", "N=2 DEAD_ARE_NOT_LOOKED_FOR", CYCLE),
    Run("shm_door", "claim", "N=2 REMOVER_LOCKS_ALL", CYCLE),
    Run("shm_door", "claim", "N=2 ANY_LOCK_IS_IN_USE", CYCLE),
    Run("shm_door", "claim", "N=2 ENTER_WITHOUT_LOCK", CYCLE),
    Run("shm_door", "safety", "N=2 TROUBLE LEFT_IS_LOOKED_AT_LAST", ASSERTION),
    Run("shm_door", "safety", "N=2 TROUBLE EXTRA=0 FILES=5 REMOVE_WITHOUT_LOCK", ASSERTION),
    Run("shm_door", "safety", "N=2 TROUBLE EXTRA=0 FILES=5 MAKER_DOES_NOT_LOCK", ASSERTION),
    Run("shm_door", "safety", "N=2 TROUBLE EXTRA=0 FILES=5 MAKER_DOES_NOT_LOOK_AGAIN", ASSERTION),
    Run("shm_door", "safety", "N=2 EXTRA=1 CLAIM_WHAT_IS_TAKEN", ASSERTION),
    Run("tick", "safety", "N=2 APPLY_THE_NEWEST", ASSERTION),
    Run("tick", "safety", "N=2 STALE_IS_APPLIED", ASSERTION),
    Run("tick", "safety", "N=2 STEP_IS_PHASE", ASSERTION),
    Run("tick", "safety", "N=2 OWN_VOTE_DECIDES", ASSERTION),
    Run("tick", "safety", "N=2 ABORT_FREES_AT_ONCE", ASSERTION),
    Run("tick", "safety", "N=2 FAILURES=1 LANES_ARE_NOT_VERIFIED", ASSERTION),
    Run("tick", "safety", "N=2 FAILURES=1 GO_ON_WITHOUT_THE_DEAD", ASSERTION),
    Run("tick", "safety", "N=2 FAILURES=1 THE_DEAD_ARE_WAITED_FOR", STUCK),
    Run("tick", "progress", "N=2 DEPTH=0 LIVENESS IO_THREADS MAILBOX_EMPTIED_LAST", CYCLE),
]


def command(*words: object, folder: str) -> str:
    """What a command prints; RuntimeError, with that, where it fails."""
    texts = [str(word) for word in words]
    done = subprocess.run(texts, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{texts}: {done.stdout}{done.stderr}")
    return done.stdout


def search(run: Run) -> str:
    """What Spin's verifier says; "errors: 0" in it means that the whole state space was seen."""
    compiler_flags, flags = MODES[run.mode]
    switches = [f"-D{switch}" for switch in run.switches.split()]
    with tempfile.TemporaryDirectory() as folder:
        # -o3: no merging of statements, which would go past a step of another rank.
        command("spin", *switches, "-a", "-o3", HERE / f"{run.model}.pml", folder=folder)
        limit = f"-DMEMLIM={MAX_MEMORY_MB}"
        level = "-O0" if run.finds else "-O2"  # a mutant is found before it is compiled
        command("gcc", level, "-w", limit, *compiler_flags, "-o", "pan", "pan.c", folder=folder)
        # -b: a search that gets too deep is an error, not a warning.
        return command("./pan", *flags, f"-m{MAX_DEPTH}", "-b", "-n", folder=folder)


def verdict(run: Run, said: str) -> str:
    """Empty if the run came out as it must, else what is wrong."""
    if run.finds:
        return "" if re.search(rf"pan:\d+: {run.finds}", said) else f"not found: {said}"
    whole = "errors: 0" in said and "reached -DMEMLIM" not in said and "too small" not in said
    return "" if whole else f"does not hold, or was not seen whole: {said}"


def cpu_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Prints states and CPU seconds of each run; returns how many came out wrong."""
    num_wrong = 0
    for run in GOOD + MUTANTS:
        start = cpu_seconds()
        said = search(run)
        wrong = verdict(run, said)
        num_wrong += wrong != ""
        states = re.search(r"(\d+(?:\.\d+e\+\d+)?) states, stored", said)
        found = re.search(r"pan:\d+: ([a-z -]+)", said)
        what = found.group(1).strip() if found else "holds"
        count = f"{float(states.group(1)):,.0f}" if states else "?"
        print(f"{run!s:75} {count:>12} states {cpu_seconds() - start:6.1f} s  {wrong or what}")
        sys.stdout.flush()
    print(f"{len(GOOD)} models, {len(MUTANTS)} mutants, {num_wrong} wrong, {cpu_seconds():.0f} s")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main())
