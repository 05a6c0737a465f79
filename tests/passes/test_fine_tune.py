"""Fine-tuning learns, gives the same weights however often it was interrupted, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt import environment
from edgeopt.context import Checkpoints, Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.training.accuracy import measure_top1
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_cores", lambda: 1)


@pytest.fixture
def context(torch_model: Model, make_samples: MakeSamples, tmp_path: Path) -> Context:
    return Context(
        folder=tmp_path / "tuned",
        seed=3,
        training=make_samples(torch_model, "training"),
        tuning=make_samples(torch_model, "tuning", 40),
        original=torch_model,
        progress=ignore_progress,
    )


def tune(model: Model, context: Context, folder: str = "tuned", **options: Any) -> Model:
    options = {"epochs": 3, "batch": 16, "learning_rate": 0.01} | options
    return FineTune(**options)(model, replace(context, folder=context.folder.parent / folder)).model


def weights(model: Model) -> bytes:
    return model.path.read_bytes()


def test_it_learns_the_labels(torch_model: Model, context: Context) -> None:
    result = FineTune(epochs=6, batch=16, learning_rate=0.01, distill=False)(torch_model, context)
    assert context.tuning is not None
    before, after = (measure_top1(make_network(model), context.tuning) for model in (torch_model, result.model))
    assert before is not None
    assert after is not None
    assert before < 0.5 < 0.8 < after
    assert result.facts["tuning_top1_before"] == 100 * before
    assert result.facts["tuning_top1_after"] == 100 * after
    assert result.facts["summary"] == f"6 epochs, {100 * before:.1f} % → {100 * after:.1f} % on the tuning split"
    assert result.changed


def test_it_learns_from_the_original_alone_where_there_are_no_labels(
    torch_model: Model, context: Context, make_samples: MakeSamples, tmp_path: Path
) -> None:
    taught = tune(torch_model, context, "teacher", distill=False, epochs=6)
    pruned = PruneChannels(ratio=0.5, importance="l1")(taught, replace(context, folder=tmp_path / "pruned")).model
    bare = replace(context, original=taught, training=make_samples(torch_model, "bare", 128, labelled=False))
    tuned = tune(pruned, bare, epochs=8)
    assert context.tuning is not None
    left, found = (measure_top1(make_network(model), context.tuning) or 0 for model in (pruned, tuned))
    assert left < 0.8 < found


def test_the_same_seed_gives_the_same_weights_and_another_one_others(torch_model: Model, context: Context) -> None:
    once, again = tune(torch_model, context, "one"), tune(torch_model, context, "two")
    other = tune(torch_model, replace(context, seed=4), "three")
    assert weights(once) == weights(again)
    assert weights(once) != weights(other)


class Interrupted(BaseException):
    """What a test raises in place of a kill."""


def stop_after(epochs: int) -> Callable[[str, float | None], None]:
    """Progress that ends the run once an epoch after `epochs` has begun."""

    def progress(text: str, fraction: float | None) -> None:
        if text.startswith(f"epoch {epochs + 1} "):
            raise Interrupted

    return progress


@pytest.mark.parametrize("stops", [(0,), (1,), (2,), (1, 2)])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    torch_model: Model, context: Context, stops: tuple[int, ...], tmp_path: Path
) -> None:
    whole = tune(torch_model, context, "whole")
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    for stop in stops:
        with pytest.raises(Interrupted):
            tune(torch_model, replace(kept, progress=stop_after(stop)), "torn")
    told: list[str] = []
    resumed = tune(torch_model, replace(kept, progress=lambda text, _: told.append(text)), "resumed")
    assert weights(resumed) == weights(whole)
    assert not any(text.startswith(f"epoch {epoch} ") for text in told for epoch in range(1, stops[-1] + 1))
    assert sorted(path.name for path in (tmp_path / "torn").iterdir()) == []


def test_a_run_that_was_killed_after_its_last_epoch_trains_no_more(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    whole = tune(torch_model, kept, "whole")
    told: list[str] = []
    again = tune(torch_model, replace(kept, progress=lambda text, _: told.append(text)), "again")
    assert weights(again) == weights(whole)
    assert not any(text.startswith("epoch") for text in told)


def test_only_the_model_is_left_in_the_folder(torch_model: Model, context: Context) -> None:
    tune(torch_model, context, epochs=1)
    assert sorted(path.name for path in context.folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_progress_rises_and_names_epochs_and_loss(torch_model: Model, context: Context) -> None:
    told: list[tuple[str, float | None]] = []
    tune(torch_model, replace(context, progress=lambda text, fraction: told.append((text, fraction))), epochs=2)
    epochs = [(text, fraction) for text, fraction in told if text.startswith("epoch")]
    fractions = [fraction or 0.0 for _, fraction in epochs]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] < 1
    assert epochs[0][0] == "epoch 1 of 2"
    assert epochs[-1][0].startswith("epoch 2 of 2, loss ")


def test_frozen_networks_are_trained_too(
    architecture: Callable[[str], Model], make_samples: MakeSamples, tmp_path: Path
) -> None:
    model = architecture("make_frozen")
    context = Context(folder=tmp_path / "x", training=make_samples(model, "three"), progress=ignore_progress)
    tuned = tune(model, context, epochs=1, distill=False)
    before, after = (dict(make_network(each).named_parameters()) for each in (model, tuned))
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_two_inputs_and_named_outputs_train(
    architecture: Callable[[str], Model], make_samples: MakeSamples, tmp_path: Path
) -> None:
    model = architecture("make_two_inputs")
    samples = make_samples(model, "pairs", 32)
    context = Context(folder=tmp_path / "x", training=samples, original=model, progress=ignore_progress)
    facts = FineTune(epochs=8, batch=8, learning_rate=0.02, distill=False)(model, context).facts
    assert facts["loss_last"] < facts["loss_first"]  # type: ignore[operator]
    assert str(facts["summary"]).startswith("8 epochs, loss ")


def test_no_labels_and_no_distillation_is_refused(
    torch_model: Model, context: Context, make_samples: MakeSamples
) -> None:
    bare = replace(context, training=make_samples(torch_model, "bare", labelled=False))
    with pytest.raises(PassError, match="has no labels") as caught:
        tune(torch_model, bare, distill=False)
    assert "distill: true" in caught.value.hint


def test_distillation_needs_the_original(torch_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="no original network") as caught:
        tune(torch_model, replace(context, original=None))
    assert "distill: false" in caught.value.hint


def test_a_loss_that_is_not_finite_is_told_with_the_epoch(torch_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match=r"loss is not finite in epoch [12]") as caught:
        tune(torch_model, context, learning_rate=1e30)
    assert "learning_rate" in caught.value.hint
