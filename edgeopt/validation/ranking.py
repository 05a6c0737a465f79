"""Rough times of several models on one backend, in turns in one process: to rank choices by, never to judge by.

A verdict takes fresh processes and an interval (`timing`); a search that tries dozens of networks only asks which of
them is the cheaper one, and by about how much.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import environment
from edgeopt.backends import build_artifact, zeros
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Model
from edgeopt.validation.subject import Block, Subject
from edgeopt.validation.timing import alone
from edgeopt.workers import report_progress

#: turns of each model, and untimed and timed runs of one turn
ROUNDS, DISCARD, RUNS = 12, 2, 4


def time_models(
    backend: str, options: Mapping[str, Any], models: Sequence[Model], threads: int, batch: int
) -> list[float]:
    """What a worker runs: (models,) the median milliseconds of one run of each.

    Raises:
        BuildError: one of them cannot be built or run.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgeopt-rank-") as scratch,
        alone(environment.timing_lock(), report_progress),
    ):
        subjects = []
        for at, model in enumerate(models):
            context = Context(folder=Path(scratch) / str(at), threads=threads, batch=batch)
            subjects.append(_open(backend, options, model, context))
        order, times = list(range(len(subjects))), [list[float]() for _ in subjects]
        drawn = random.Random(0)
        for turn in range(ROUNDS):
            drawn.shuffle(order)
            for at in order:
                times[at].append(_median_ms(subjects[at].time_block(DISCARD, RUNS)))
            report_progress("time", (turn + 1) / ROUNDS)
    return [float(np.median(one)) for one in times]


def _open(backend: str, options: Mapping[str, Any], model: Model, context: Context) -> Subject:
    context.folder.mkdir()
    artifact = build_artifact(backend, model, context, options)
    if artifact.unbuilt:
        raise BackendError(f"`{backend}` has no clock here: {artifact.unbuilt}", "choose by hand what stays in float")
    return Subject(artifact, [zeros(artifact, context.batch)])


def _median_ms(block: Block) -> float:
    """Less what the process waited for its core, where that is known."""
    times = np.asarray(block.times_ns, np.float64)
    waited = np.asarray(block.waited_ns, np.float64)
    net = np.where(waited < times, times - waited, times) if block.correctable else times
    return float(np.median(net)) / 1e6
