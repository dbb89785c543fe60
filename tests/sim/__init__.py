"""Deterministic simulation: N ranks in one process and virtual time, everything from one seed.

schedule   what the seed decides: sizes, speeds, faults, who dies
clock      virtual time; store calls and copies that take some of it
network    the group of the ranks: lanes arrive late, in any order, or never
memory     pools of tiny pages with known bytes
store      the L3 of one rank: its faults, and what it answered
serving    one rank's scheduler: the same calls in the same order on every rank
checks     the journal that all ranks must write alike; what a prefetch had to find
seat       runs one rank, and checks it after every tick
world      builds a schedule and runs it, event by event; keeps the trace
runs       one schedule with its trace, or many on all cores: `python -m sim`
"""
