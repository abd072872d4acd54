"""The fault cases of docs/trust.md."""

CASES = {
    1: "killed at every write point of a save, and at random times",
    2: "newest weights cut short, empty or zeroed",
    3: "one bit flipped in a checkpoint",
    4: "random state or position missing from a checkpoint",
    5: "every checkpoint invalid",
    6: "the disk fills during a save",
    7: "retention beside incomplete checkpoints",
    8: "exact resume",
    9: "SIGTERM to one process inside of a step",
    10: "SIGTERM to the process group, with loader workers",
    11: "a second SIGTERM during the save",
    12: "a process is killed, raises, exits or sleeps",
    13: "resumed with another number of processes",
    14: "processes that would train alone",
    15: "configuration changed on resume",
    16: "order of the parameters changed",
    17: "NaN loss on one process",
    18: "infinite gradient; spike in the loss",
    19: "a batch without targets",
    20: "fewer songs than a step takes",
    21: "data shard cut, flipped, swapped or missing",
    22: "preprocessing killed and started again",
    23: "program changed between two preprocessing runs",
    24: "unreadable audio among good files",
    25: "audio that lost its end",
    26: "malformed manifest",
    27: "odd sample rates, channels, lengths and levels",
    28: "odd texts",
    29: "paths that lead elsewhere",
    30: "an audio bomb",
    31: "a pickle where tensors belong",
    32: "trackers that are missing or fail, no network",
    33: "output folder that cannot be used",
    34: "a loader worker dies or hangs",
    35: "foreign requests to a local page",
    36: "commands to a run that is killed at random moments",
}
"""Number of a case -> what happens in it."""

WITH_ADAPTER = frozenset(CASES) - frozenset({10, 14, *range(21, 31), 32, 34, 35})
"""Cases that are tested with a run that trains an adapter too; in the others, the form of the weights cannot matter."""

EVERY_TIME = frozenset({1, 8, 9, 12, 17, 24})
"""Cases that `make test` runs too; the others carry the mark `faults` and run in `make test-faults`."""
