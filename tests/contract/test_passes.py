"""What every pass owes to the pipeline. A new file in `edgeopt/passes` is tested here the moment it exists."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeopt import environment, registry
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Form, Model, load_model
from edgeopt.passes import Pass, PassResult

RUN_PICKLED = """
import pickle, sys
from edgeopt import environment
from edgeopt.passes import run_pass
environment.cpu_cores = lambda: 1
run_pass(*pickle.load(open(sys.argv[1], "rb")))
"""


def example_options(pass_type: type[Pass]) -> dict[str, Any]:
    """The first of the `examples` of each option that has some: one without a default must, and one of several may."""
    fields = pass_type.model_fields
    without = [name for name, field in fields.items() if field.is_required() and not field.examples]
    assert not without, f"give {without} a default, or `examples` to its Field"
    return {name: field.examples[0] for name, field in fields.items() if field.examples}


class Subject:
    """One pass with a model in the form that it takes and all that it may ask of a context."""

    def __init__(self, name: str, models: dict[Form, Model], samples: Samples) -> None:
        self.type: type[Pass] = registry.resolve("passes", name)
        self.options = example_options(self.type)
        self.model = models[self.type.accepts]
        self._given = {"calibration": samples, "tuning": samples.spread(64), "training": samples}
        self._original = models["torch"]

    def context(self, folder: Path) -> Context:
        profile = OnnxruntimeCpu().profile()
        return Context(folder=folder, original=self._original, profile=profile, batch=1, **self._given)

    def run(self, folder: Path) -> PassResult:
        return self.type(**self.options)(self.model, self.context(folder))


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Passes that use every core take twenty times as long where other tests have the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "cpu_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def subject(pass_name: str, models: dict[Form, Model], samples: Samples) -> Subject:
    return Subject(pass_name, models, samples)


@dataclass(frozen=True)
class Outcome:
    """One run of a pass, which several tests look at: `before` and `after` are the files of the given model."""

    folder: Path
    result: PassResult
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def outcome(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder, before = tmp_path_factory.mktemp("outcome"), contents(subject.model.folder)
    result = subject.run(folder)
    return Outcome(folder, result, before, contents(subject.model.folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_leaves_its_input_and_produces_what_it_promised(subject: Subject, outcome: Outcome) -> None:
    model = outcome.result.model
    assert outcome.after == outcome.before
    assert model.form == subject.type.produces
    assert load_model(outcome.folder, model.sources) == model


def test_says_truly_whether_it_changed_the_model(subject: Subject, outcome: Outcome) -> None:
    assert outcome.result.changed == (outcome.result.model.digest() != subject.model.digest())


def test_facts_are_short_and_finite(outcome: Outcome) -> None:
    facts = outcome.result.facts
    assert "summary" in facts
    for name, fact in facts.items():
        assert isinstance(fact, str | int | float), name
        assert isinstance(fact, str) or math.isfinite(fact), name
        assert "\n" not in str(fact), name


def test_gives_the_same_bytes_twice(subject: Subject, outcome: Outcome, tmp_path: Path) -> None:
    subject.run(tmp_path)
    assert contents(tmp_path) == contents(outcome.folder)


@pytest.mark.slow
def test_gives_the_same_bytes_in_another_process(
    pass_name: str, subject: Subject, outcome: Outcome, tmp_path: Path
) -> None:
    work = (pass_name, subject.options, subject.model, subject.context(tmp_path / "made"))
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    # Another seed of the hashes, so that an order that hangs on them shows.
    variables = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", RUN_PICKLED, tmp_path / "work"], env=variables, check=True)
    assert contents(tmp_path / "made") == contents(outcome.folder)


def test_leaves_no_path_of_this_machine_in_its_files(outcome: Outcome) -> None:
    for name, data in contents(outcome.folder).items():
        assert str(outcome.folder).encode() not in data, name
        assert str(Path(__file__).parents[2]).encode() not in data, name


def test_refuses_a_model_in_another_form(subject: Subject, models: dict[Form, Model], tmp_path: Path) -> None:
    other = next(model for form, model in models.items() if form != subject.type.accepts)
    with pytest.raises(PassError, match=f"takes a model in {subject.type.accepts} form"):
        subject.type(**subject.options)(other, subject.context(tmp_path))
    assert contents(tmp_path) == {}


def test_names_the_data_that_it_misses(subject: Subject, tmp_path: Path) -> None:
    if not subject.type.reads:
        pytest.skip("it reads no data")
    with pytest.raises(PassError, match=subject.type.reads[0]):
        subject.type(**subject.options)(subject.model, Context(folder=tmp_path))


def test_describes_every_option(subject: Subject) -> None:
    assert subject.type.__doc__, "the docstring becomes the documentation of the pass"
    for name, field in subject.type.model_fields.items():
        assert field.description, name
