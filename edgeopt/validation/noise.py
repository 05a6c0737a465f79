"""How noisy this machine is: a network timed beside its own copy, and what that means for a budget.

The A/A check times two equal networks just as `compile` times its sides. The interval of their ratio, whose true value
is 1, is what noise alone makes of a comparison here: two equal networks may seem as far apart as it is wide. The last
check is remembered by machine and power mode, so that an undecided budget can be laid at the machine's door.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgeopt import environment, registry, workers
from edgeopt.context import Context
from edgeopt.errors import UsageError
from edgeopt.model import Model, OnnxValue, Value
from edgeopt.store import Store
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.latency import ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.timing import measure_sets
from edgeopt.workers import Progress, ignore_progress

#: where equal networks may seem farther apart, a machine decides too little to be a gate
WIDEST = 0.05

CONFIDENCE = 0.95

#: of the network: about 1 ms on one core of 2.5 GHz
CHANNELS, LAYERS, PIXELS = 32, 5, 32


class NoiseFloor(Value):
    """What an A/A check found: a network ÷ its copy over `sets` sets, with its interval; where there is none, `note`
    says why.

    `first` is the half-width of the interval at the first look. `environment` is the digest of the machine's
    fingerprint, its power mode among it, and `created` when it was measured, in seconds since 1970.
    """

    ratio: float | None
    low: float | None
    high: float | None
    first: float | None
    sets: int
    threads: int
    environment: str
    created: float
    note: str = ""

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, as a fraction of the ratio."""
        return _half_width(self.low, self.high)

    @property
    def width(self) -> float | None:
        """How far two equal networks may seem apart, as a fraction."""
        if self.low is None or self.high is None:
            return None
        return max(self.high / self.low, self.high, 1.0 / self.low) - 1.0

    @property
    def fit(self) -> bool:
        """Whether the interval holds the true ratio, 1, and is narrow enough."""
        if self.low is None or self.high is None or self.width is None:
            return False
        return self.low <= 1.0 <= self.high and self.width <= WIDEST

    @property
    def sentence(self) -> str:
        """What the check says of the machine."""
        if self.width is None:
            return f"unfit: {self.note}"
        if self.fit:
            return f"fit for budgets down to {_percent(self.width)}"
        return f"unfit: two equal networks may seem {_percent(self.width)} apart, {_percent(WIDEST)} is allowed"


def describe_floor(floor: NoiseFloor) -> str:
    """One line for the report: when the machine was checked, and what came of it."""
    day = time.strftime("%Y-%m-%d", time.gmtime(floor.created))
    bounds = "" if floor.low is None or floor.high is None else f" [{floor.low:.3f}, {floor.high:.3f}]"
    found = "" if floor.ratio is None else f"a network ÷ its copy {floor.ratio:.3f}{bounds} over {floor.sets} sets; "
    return f"A/A check of {day}: {found}{floor.sentence}"


def _half_width(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else math.sqrt(high / low) - 1.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def time_copies(backend: str, progress: Progress = ignore_progress, protocol: Protocol | None = None) -> LatencySamples:
    """Time a small network, `a`, beside its copy, `b`, with the protocol of `compile` and through all its looks.

    Raises:
        UsageError: there is no such backend, it takes no ONNX files, or it measures nothing real.
        MissingError: a library is not installed.
        BuildError: the network could not be built or timed.
    """
    kind, protocol = registry.resolve("backends", backend), protocol or Protocol()
    if kind.accepts != "onnx" or kind.simulated:
        why = (
            "does not run ONNX files" if kind.accepts != "onnx" else "is simulated, which says nothing of this machine"
        )
        raise UsageError(f"`{backend}` {why}", "`edgeopt backends` lists what there is")
    with tempfile.TemporaryDirectory(prefix="edgeopt-aa-") as scratch:
        network, *copies = (Path(scratch) / name for name in ("network", "a", "b"))
        for folder in (network, *copies):
            folder.mkdir()
        model = workers.run("edgeopt.validation.noise:make_network", network)
        contexts = {folder.name: Context(folder=folder, threads=protocol.threads, target="aa") for folder in copies}
        sides = {
            name: workers.run("edgeopt.backends:build_artifact", backend, model, context)
            for name, context in contexts.items()
        }
        images = np.random.default_rng(0).standard_normal((1, 3, PIXELS, PIXELS)).astype(np.float32)
        lock = environment.timing_lock()
        return measure_sets(sides, [{"image": images}], protocol, protocol.looks[-1], lock, progress=progress)


def make_network(folder: Path) -> Model:
    """Write a small convolutional network with seeded weights into `folder`, the same on every machine.

    Images (batch, 3, 32, 32) to scores (batch, 32).
    """
    import onnx
    from onnx import helper

    from edgeopt.onnx_graph import input_specs, output_specs, save_graph

    random, name = np.random.default_rng(0), "image"
    nodes, weights = [], []
    for layer in range(LAYERS):
        shape = (CHANNELS, CHANNELS if layer else 3, 3, 3)
        values = random.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))  # so that activations keep size
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"weight{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"weight{layer}"], [f"sum{layer}"], pads=[1, 1, 1, 1]))
        name = f"layer{layer}"
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [name]))
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, PIXELS, PIXELS])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", CHANNELS])
    opset = helper.make_opsetid("", 17)
    graph = helper.make_model(
        helper.make_graph(nodes, "aa", [image], [scores], weights), opset_imports=[opset], ir_version=8
    )
    model = Model(value=OnnxValue(), inputs=input_specs(graph), outputs=output_specs(graph), folder=folder)
    save_graph(graph, model.path)
    return model


def judge_copies(samples: LatencySamples) -> NoiseFloor:
    """What the samples of `time_copies` say of the machine that they were taken on."""
    alpha, looks = samples.protocol.alpha(CONFIDENCE), samples.protocol.looks
    first, last = (ratio_interval(samples.first_sets(look), "b", "a", alpha) for look in (looks[0], looks[-1]))
    return NoiseFloor(
        ratio=last.value, low=last.low, high=last.high, first=_half_width(first.low, first.high), sets=last.sets,
        threads=samples.protocol.threads, environment=samples.environment, created=time.time(), note=last.note,
    )  # fmt: skip


def remember_noise_floor(floor: NoiseFloor, store: Store) -> None:
    """Keep `floor` as the last one of its machine."""
    with store.in_use():
        store.remember(_slot(floor.environment), {"aa": {"noise": floor.model_dump_json()}})


def find_noise_floor(store: Store) -> NoiseFloor | None:
    """What was last remembered of this very machine in its power mode."""
    noted = store.recall(_slot(environment.fingerprint_digest())).get("aa", {}).get("noise")
    if noted is None:
        return None
    try:
        return NoiseFloor.model_validate_json(noted)
    except ValidationError:
        store.notes.append("the last A/A check is of another edgeopt and was left out: `edgeopt doctor --aa` makes one")
        return None


def _slot(machine: str) -> str:
    return f"noise-{machine[:12]}"


def note_noise(
    measurements: Sequence[Measurement], limits: Mapping[str, float], samples: LatencySamples, floor: NoiseFloor | None
) -> list[Measurement]:
    """The measurements of one side; each ratio that its limit leaves undecided is given the note of `unfit`.

    Args:
        limits: metric → what a budget allows it.
        samples: that the ratios were taken from.
    """
    known = floor if floor is not None and floor.threads == samples.protocol.threads else None
    noted = []
    for found in measurements:
        if found.metric in limits and found.baseline is not None and found.low is not None and not found.note:
            spread = spread_of(samples, found.subject, found.baseline, 1.0 - (found.confidence or CONFIDENCE))
            found = found.model_copy(update={"note": unfit(found, limits[found.metric], spread, known)})
        noted.append(found)
    return noted


def spread_of(samples: LatencySamples, subject: str, baseline: str, alpha: float) -> float | None:
    """How far two equal networks may seem apart, as a fraction, judged by samples of two that need not be equal.

    One process is held against itself, its even blocks against its odd ones; of the two sides the worse one counts.
    What a fresh process adds does not show in it, so it is at least so much. None: too few sets or blocks.

    Args:
        subject, baseline: digests of the two sides.
    """
    names = (samples.sides[samples.digests.index(digest)] for digest in (subject, baseline))
    pairs = samples.paired_times_of(*names)
    found = [_spread_within([pair[side] for pair in pairs], alpha) for side in (0, 1)]
    return max((one for one in found if one is not None), default=None)


def _spread_within(times_ns: Sequence[NDArray[np.int64]], alpha: float) -> float | None:
    logs = [np.log(np.median(times, axis=1)) for times in times_ns if len(times) > 1]
    halves = statistics.median_interval([np.median(one[::2]) - np.median(one[1::2]) for one in logs], alpha)
    # Half of the blocks scatter √2 times as much as all of them.
    return None if halves is None else math.exp((halves[1] - halves[0]) / math.sqrt(2)) - 1.0


def unfit(found: Measurement, limit: float, spread: float | None, floor: NoiseFloor | None) -> str:
    """Why a ratio is not told from its limit: the machine's noise, too small a distance, or neither; empty if it is.

    Only a bound beyond the limit proves a miss, so noise makes no network fail: it leaves the budget undecided. The
    machine is to blame where equal networks may seem farther apart than this ratio is from its limit, and farther
    than a gate or this budget can bear; where less than that, the two are too near for any machine of this kind.

    Args:
        spread, floor: how far equal networks may seem apart by the samples themselves, and by the last A/A check.
    """
    value, low, high = found.value, found.low, found.high
    if value is None or low is None or high is None or value <= 0 or high <= limit or low > limit:
        return ""
    distance = max(limit / value, value / limit) - 1.0
    checked = floor.width if floor is not None else None
    apart = max((one for one in (spread, checked) if one is not None), default=0.0)
    if apart >= distance:
        blame = apart > min(WIDEST, max(limit, 1.0 / limit) - 1.0)
        said = "this machine is too noisy for this budget" if blame else "it is too near to be told"
        return f"{said}: {_percent(distance)} away, where two equal networks may seem {_percent(apart)} apart"
    if checked is None:
        return "`edgeopt doctor --aa` tells whether this machine is too noisy for it"
    return f"two equal networks seemed at most {_percent(checked)} apart here: measure again while nothing else runs"
