"""How often the bounds hold the truth, simulated: the table of `benchmarks/coverage.py`, held to what it promises."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeopt.validation import statistics

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_benchmark() -> ModuleType:
    """By its path and under another name: there is a well-known library called `coverage`."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("coverage_of_bounds", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


coverage = load_benchmark()


@pytest.mark.slow
@pytest.mark.parametrize("case", list(coverage.cases()), ids=lambda case: f"{case.name}-{case.size}")
def test_a_bound_holds_the_truth_as_often_as_it_says(case: coverage.Case) -> None:
    for found in coverage.cover(case):
        assert found.sound, f"the {found.side} bound held in {found.simulated:.4f}, {case.confidence:.4f} was promised"


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregression_is_that_of_theory(correlation: float) -> None:
    rng, size = np.random.default_rng(0), 5000
    found = [statistics.effective_size(coverage.autoregression(rng, size, correlation)) for _ in range(300)]
    assert np.mean(found) == pytest.approx(size * (1 - correlation) / (1 + correlation), rel=0.02)


@pytest.mark.parametrize(
    "case", [coverage.median(10, 0.05), coverage.percentile(100, 0.9), coverage.exact_share(50, 0.9)]
)
def test_the_simulation_tells_a_bound_that_holds_too_seldom(case: coverage.Case) -> None:
    # A run in ten in which the truth is missed by more than it may be.
    spoiled = replace(case, trials=2000, trial=lambda rng: [held and rng.random() > 0.1 for held in case.trial(rng)])
    assert all(found.sound for found in coverage.cover(replace(case, trials=2000)))
    assert not any(found.sound for found in coverage.cover(spoiled))


def test_the_table_has_a_cell_for_every_column() -> None:
    found = coverage.cover(replace(coverage.early_stopping(1000, 0.9), trials=10))
    assert [len(coverage._row(one)) for one in found] == [len(coverage.COLUMNS)]
