"""Torch set so that an epoch gives the same weights each time, on a CPU: what is random follows from seed and epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from edgeopt import environment


@contextlib.contextmanager
def reproducible(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """Meanwhile, torch computes one epoch of a seed and in a fixed order; afterwards its settings are as they were."""
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
