"""How often drift is told where there is none, how soon a shift is told, and what watching costs per answer.

Windows are drawn as the device fills them and go through its own arithmetic. A reference of M samples cuts the line
into bins whose true probabilities are those of its spacings, which are Dirichlet whatever the distribution of the
signal, so rates without drift need no distribution. Delays are for a normal signal that moves by half its deviation.
"""

from __future__ import annotations

import argparse
import tempfile
import timeit
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tables import describe_machine, show

from edgeopt.bundle import Bundle
from edgeopt.bundle.fingerprint import BINS, Reference, signals, summarize
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.drift import LEVEL, WINDOW, stability_index, threshold
from edgeopt.device.metrics import make_watch
from edgeopt.device.watching import Seconds
from edgeopt.model import Artifact, TensorSpec, list_files

#: calibration samples
REFERENCES = (100, 250, 500, 1000, 5000, 50_000)
SIGNALS = 3
#: a rule of thumb for the index, whatever the number of samples
FIXED = 0.1
#: references times windows of one figure
DRAWN = 4_000_000
CHUNK = 200_000
SHIFT = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=DRAWN, help="windows that are drawn for each rate")
    parser.add_argument("--answers", type=int, default=200_000, help="answers that the cost is the mean of")
    arguments = parser.parse_args()
    print(describe_machine())
    show(
        f"no drift: windows of {WINDOW} that alert, of {arguments.windows:,}, each against a reference of its own "
        f"(nominal {LEVEL / SIGNALS:.1e} for each of {SIGNALS} signals, {LEVEL:g} together)",
        ("reference", "one signal", "three at most", "fixed at 0.1"),
        [_rates(usual, arguments.windows) for usual in REFERENCES],
    )
    show(
        "no drift: 1,000 windows one after another against one reference, for 1,000 references",
        ("reference", "windows that alert", "references with an alert", "if windows did not resemble one another"),
        [_repeated(usual) for usual in REFERENCES],
    )
    show(
        f"a shift of {SHIFT} σ: how many windows of {WINDOW} until it is told, for 2,000 references",
        ("reference", "in the first", "within 3", "within 10", "median, samples", "mean of the told, samples"),
        [_delays(usual) for usual in REFERENCES],
    )
    show("what watching costs", ("what", "µs"), _costs(arguments.answers))


def _alerts(usual: int, references: int, windows: int, random: np.random.Generator) -> NDArray[np.float64]:
    """The index of windows against references, (references, windows)."""
    counts = np.full(BINS, usual // BINS)
    chances = np.repeat(random.dirichlet(counts, references), windows, axis=0)
    seen = random.multinomial(WINDOW, chances)
    return stability_index(seen, np.broadcast_to(counts, seen.shape)).reshape(references, windows)


def _rates(usual: int, windows: int) -> list[str]:
    random = np.random.default_rng(usual)
    limit = threshold(WINDOW, usual, BINS, LEVEL / SIGNALS)
    alerts = fixed = 0
    for _ in range(windows // CHUNK):
        found = _alerts(usual, CHUNK, 1, random)
        alerts += int((found > limit).sum())
        fixed += int((found > FIXED).sum())
    drawn = windows // CHUNK * CHUNK
    return [f"{usual:,}", f"{alerts / drawn:.1e}", f"{SIGNALS * alerts / drawn:.1e}", f"{100 * fixed / drawn:.2g} %"]


def _repeated(usual: int) -> list[str]:
    random = np.random.default_rng(usual)
    limit = threshold(WINDOW, usual, BINS, LEVEL / SIGNALS)
    found = np.concatenate([_alerts(usual, 100, 1000, random) for _ in range(10)]) > limit
    alone = 1 - (1 - LEVEL / SIGNALS) ** 1000
    return [f"{usual:,}", f"{found.mean():.1e}", f"{100 * found.any(axis=1).mean():.2g} %", f"{100 * alone:.2g} %"]


def _delays(usual: int, references: int = 2000, windows: int = 40) -> list[str]:
    random = np.random.default_rng(usual)
    told = []
    for _ in range(references):
        reference = _reference(random.normal(size=usual))
        chances = _chances(reference)
        seen = random.multinomial(WINDOW, chances, windows)
        index = stability_index(seen, np.broadcast_to(np.array(reference.counts), seen.shape))
        over = index > threshold(WINDOW, usual, len(reference.counts), LEVEL / SIGNALS)
        told.append(int(over.argmax()) + 1 if over.any() else windows + 1)
    delays = np.array(told)
    within = [f"{100 * (delays <= limit).mean():.1f} %" for limit in (1, 3, 10)]
    is_told = delays <= windows
    median = np.median(delays)
    return [
        f"{usual:,}", *within, f"{median * WINDOW:.0f}" if median <= windows else "–",
        f"{delays[is_told].mean() * WINDOW:.0f} ({100 * is_told.mean():.1f} % told within {windows})",
    ]  # fmt: skip


def _chances(reference: Reference) -> NDArray[np.float64]:
    """How likely the shifted signal falls into each bin, from its exact distribution."""
    from scipy.stats import norm

    ends = norm.cdf(np.array(reference.edges) - SHIFT)
    chances: NDArray[np.float64] = np.diff(np.concatenate(([0.0], ends, [1.0])))
    return chances


def _reference(values: NDArray[np.float64]) -> Reference:
    found = summarize(values)
    assert found is not None
    return found


def _costs(answers: int) -> list[list[str]]:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        watch = make_watch(_bundle(Path(place)))
        image, scores = np.zeros((1, 3, 224, 224), np.float32), np.zeros((1, 1000), np.float32)
        inputs, outputs, seconds = {"image": image}, {"scores": scores}, Seconds(1e-4, 2e-3, 1e-5)
        taken = timeit.timeit(lambda: watch.answered(inputs, outputs, seconds), number=answers)
        rows.append(["an answer", f"{1e6 * taken / answers:.2f}"])
        taken = timeit.timeit(lambda: signals(image, scores), number=1000)
        rows.append(["once a second: signals of 224 × 224 and 1,000 classes", f"{1e6 * taken / 1000:.0f}"])
        taken = timeit.timeit(watch.render, number=200)
        rows.append([f"/metrics, {len(watch.render())} bytes", f"{1e6 * taken / 200:.0f}"])
    return rows


def _bundle(folder: Path) -> Bundle:
    """A bundle that nobody runs, with a fingerprint."""
    (folder / "model.onnx").write_bytes(b"nobody runs it")
    reference = _reference(np.random.default_rng(0).normal(size=500))
    artifact = Artifact(
        target="x86", backend="onnxruntime_cpu", files=list_files(folder, ["model.onnx"]),
        inputs=(TensorSpec(name="image", shape=("batch", 3, 224, 224)),),
        outputs=(TensorSpec(name="scores", shape=("batch", 1000)),), requires={}, settings={}, folder=folder,
    )  # fmt: skip
    contents = Contents(
        name="watched", target="x86", candidate="onnxruntime_cpu/int8", artifact=artifact, preprocess=Preprocess(),
        classes=None, compatible={}, recipe=b"", golden=(Golden(),), verdicts=(),
        measurements=({"metric": "latency.p90_ms", "value": 2.0},),
        fingerprint=dict.fromkeys(("confidence", "entropy", "input_mean"), reference),
    )  # fmt: skip
    return pack_bundle(contents, folder / "bundle")


if __name__ == "__main__":
    main()
