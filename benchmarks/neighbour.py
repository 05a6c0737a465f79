"""A neighbour on a shared machine: it burns the CPU in bursts, on every core that is measured on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Iterator

#: the mean of a burst, and of the pause after it: exponential, so that neither can be foreseen
BURST_SECONDS = 0.2


@contextlib.contextmanager
def busy_neighbour(seed: int) -> Iterator[None]:
    """While the block runs, one process per core is busy about half of the time."""
    processes = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    burners = [processes.Process(target=_burn, args=(core, seed, os.getpid()), daemon=True) for core in cores]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def _burn(core: int, seed: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    drawn = random.Random(1000 * seed + core)
    while os.getppid() == parent:  # not for ever where the benchmark was killed
        until = time.monotonic() + drawn.expovariate(1 / BURST_SECONDS)
        while time.monotonic() < until:
            pass
        time.sleep(drawn.expovariate(1 / BURST_SECONDS))
