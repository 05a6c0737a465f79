"""Fine-tuning learns, gives the same weights however often it was interrupted, and says what came of it."""

from __future__ import annotations

import io
import pickle
import re
import signal
import subprocess
import sys
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
from edgeopt.network import load_network, make_network
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.training.accuracy import measure_top1
from edgeopt.training.features import AttentionLoss, find_features
from edgeopt.training.losses import DistillationLoss, logits_of
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
    with pytest.raises(PassError, match=r"loss is not finite in epoch 1$") as caught:
        tune(torch_model, context, learning_rate=1e30)
    assert caught.value.exit_code == 5
    assert caught.value.hint == "lower `learning_rate`: try 1e+29"


def test_a_divergence_leaves_the_weights_of_the_last_sound_epoch_where_the_message_says(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    messages = []
    for _ in range(2):  # run again, it goes on after the last sound epoch and says the same
        with pytest.raises(PassError, match="not finite in epoch") as caught:
            tune(torch_model, kept, learning_rate=1e3, epochs=40, warm_up=0.9, weight_decay=0.1)
        assert caught.value.hint == "lower `learning_rate`: try 1e+02"
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    said = re.fullmatch(
        r"the loss is not finite in epoch (\d+); the weights after epoch (\d+) are kept in `(.+)`", messages[0]
    )
    assert said is not None
    assert int(said[1]) == int(said[2]) + 1
    network = load_network(said[3], torch_model.sources)
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    (number, state) = kept.checkpoints.latest() or (0, b"")
    assert number == int(said[2])
    saved = torch.load(io.BytesIO(state), weights_only=True)["network"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())


def test_weights_that_break_in_the_last_step_of_an_epoch_count_as_divergence(
    torch_model: Model, context: Context
) -> None:
    with pytest.raises(PassError, match="not finite in epoch 1"):
        tune(torch_model, context, learning_rate=3e38, epochs=1, batch=64, weight_decay=10.0)


def test_the_average_of_the_weights_is_what_is_kept(torch_model: Model, context: Context) -> None:
    plain, again, averaged = (tune(torch_model, context, str(ema), ema=ema) for ema in (0.0, 0.0, 0.95))
    assert weights(plain) == weights(again)
    one, other = (dict(make_network(model).named_parameters()) for model in (plain, averaged))
    start = dict(make_network(torch_model).named_parameters())
    apart, moved = (
        sum(float((each[name] - one[name]).square().sum().detach()) for name in one) for each in (other, start)
    )
    assert 0 < apart < moved / 2


def test_stop_after_keeps_the_best_epoch_by_the_tuning_split(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"), folder=tmp_path / "stopped")
    tuning = FineTune(epochs=12, batch=16, learning_rate=0.05, distill=False, stop_after=2)
    result = tuning(torch_model, kept)
    assert context.tuning is not None
    found = measure_top1(make_network(result.model), context.tuning)
    state = torch.load(io.BytesIO((kept.checkpoints.latest() or (0, b""))[1]), weights_only=True)
    assert result.facts["tuning_top1_after"] == 100 * (found or 0) == state["best"]["score"]
    assert result.facts["best_epoch"] == state["best"]["epoch"]
    assert int(result.facts["epochs"]) < 12
    assert str(result.facts["summary"]).endswith(f", best epoch {result.facts['best_epoch']}")


def test_stop_after_without_a_tuning_split_is_refused(torch_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="needs a tuning split") as caught:
        tune(torch_model, replace(context, tuning=None), stop_after=1)
    assert "data.tuning" in caught.value.hint


def test_without_a_learning_rate_a_range_test_finds_one_and_the_report_names_it(
    torch_model: Model, context: Context
) -> None:
    results = [
        FineTune(epochs=4, batch=16, learning_rate=None, distill=False, precision="fp32")(
            torch_model, replace(context, folder=context.folder.parent / name)
        )
        for name in ("one", "two")
    ]
    assert weights(results[0].model) == weights(results[1].model)
    found = float(results[0].facts["learning_rate"])
    assert 1e-4 < found < 0.3
    assert str(results[0].facts["summary"]).endswith(f", learning rate {found:g}")
    assert float(results[0].facts["loss_last"]) < float(results[0].facts["loss_first"]) / 2
    assert float(results[0].facts["tuning_top1_after"]) > float(results[0].facts["tuning_top1_before"]) + 25
    given = tune(torch_model, context, "given", learning_rate=found, epochs=4, distill=False, precision="fp32")
    assert weights(given) == weights(results[0].model)  # the test itself leaves no trace


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "one_cycle", "warm_up": 0.3},
        {"mixup": 0.2},
        {"label_smoothing": 0.1, "distill": False},
        {"clip": 1.0},
        {"ema": 0.9, "mixup": 0.2, "flip": False, "shift": 1},
    ],
)
def test_with_every_option_it_learns_the_labels(torch_model: Model, context: Context, options: dict[str, Any]) -> None:
    taught = tune(torch_model, context, "teacher", distill=False, epochs=6)
    tuned = tune(torch_model, replace(context, original=taught), **options, epochs=6)
    assert context.tuning is not None
    assert (measure_top1(make_network(tuned), context.tuning) or 0) > 0.7
    assert weights(tuned) != weights(tune(torch_model, replace(context, original=taught), "plain", epochs=6))


def test_a_pruned_network_learns_where_the_original_looks(torch_model: Model, context: Context, tmp_path: Path) -> None:
    pruned = PruneChannels(ratio=0.5, importance="l1")(torch_model, replace(context, folder=tmp_path / "pruned")).model
    plain, taught = (tune(pruned, context, str(weight), distill_features=weight) for weight in (0.0, 30.0))
    example = [torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))]
    teacher = make_network(torch_model)

    def apart(model: Model) -> float:
        student = make_network(model)
        names = find_features(student, teacher, example)
        loss = AttentionLoss(DistillationLoss(teacher, 1.0, 0.0), student, names, 1.0)
        labels = torch.zeros(16, dtype=torch.int64)
        logits = logits_of(student, example)
        return float((loss(example, labels, logits) - loss.answers(example, labels, logits)).detach())

    assert apart(taught) < 0.7 * apart(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": False, "distill_features": 1.0}, "`distill: true` beside `distill_features`"),
        ({"features": ["stem"]}, "`distill_features` beside `features`"),
    ],
)
def test_options_that_would_say_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTune(**options)


KILLED = """
import os, pickle, signal, sys
from dataclasses import replace
from edgeopt import environment, files
from edgeopt.passes.fine_tune import FineTune

environment.cpu_cores = lambda: 1
model, context, options, moment = pickle.load(open(sys.argv[1], "rb"))
seen = []

def kill(now):
    seen.append(now)
    if moment[0] in now and sum(moment[0] in each for each in seen) == moment[1]:
        os.kill(os.getpid(), signal.SIGKILL)

files.observe = lambda operation, path: kill(f"{operation} {path.name}")
FineTune(**options)(model, replace(context, progress=lambda text, _: kill(text)))
"""

#: what a kill may come before, in the order in which it comes, and the how-manieth of its kind
MOMENTS = [
    ("testing learning rates", 1),
    ("epoch 1 of 4", 3),
    ("rename 000001.checkpoint", 1),
    ("remove 000001.checkpoint", 1),
    ("epoch 3 of 4", 2),
    ("write 000004.checkpoint", 1),
    ("rename weights.safetensors", 1),
]


@pytest.mark.slow
def test_killed_between_and_within_epochs_it_goes_on_to_the_very_same_weights(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    options = {
        "epochs": 4, "batch": 16, "learning_rate": None, "schedule": "one_cycle", "ema": 0.9, "mixup": 0.4, "clip": 1.0,
        "label_smoothing": 0.1, "flip": True, "stop_after": 4, "distill_features": 1.0,
    }  # fmt: skip
    lent = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"), progress=ignore_progress)
    for moment in MOMENTS:
        (tmp_path / "task").write_bytes(pickle.dumps((torch_model, lent, options, moment)))
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "task")], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stderr}"
    whole = tune(torch_model, context, "whole", **options)
    resumed = tune(torch_model, lent, "resumed", **options)
    assert weights(resumed) == weights(whole)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "auto"])
def test_on_a_gpu_it_learns_too_and_goes_on_after_a_kill(
    torch_model: Model, context: Context, precision: str, tmp_path: Path
) -> None:
    options = {"device": "cuda", "precision": precision, "ema": 0.9, "stop_after": 8, "clip": 1.0, "shift": 1}
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    with pytest.raises(Interrupted):
        tune(torch_model, replace(kept, progress=stop_after(3)), "torn", epochs=8, **options)
    result = FineTune(epochs=8, batch=16, learning_rate=0.01, distill_features=1.0, **options)(torch_model, context)
    tuned = tune(torch_model, kept, "resumed", epochs=8, distill=False, **options)
    assert result.facts["device"] == "cuda"
    assert context.tuning is not None
    assert (measure_top1(make_network(tuned), context.tuning) or 0) > 0.7
