"""Torch set so that it gives the same numbers each time, on a CPU: what is random follows from a seed and an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from edgeopt import environment


@contextlib.contextmanager
def reproducible(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """Meanwhile, torch computes what belongs to an epoch of a seed, in a fixed order; then it is set as before."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng():
        torch.manual_seed(mixed)  # for dropout and the like, which take the global generator
        torch.set_num_threads(environment.cpu_cores())
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield torch.Generator().manual_seed(mixed)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
