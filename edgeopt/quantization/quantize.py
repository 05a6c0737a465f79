"""From a folded float graph to a quantized one by one technique: the order in which its parts are done.

equalize → shift zeros → observe → ranges → scheme → round → correct biases → insert. What was observed is kept for the
next technique that is tried on the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from numpy.typing import NDArray

from edgeopt import environment
from edgeopt.context import Memo
from edgeopt.errors import PassError
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.bias_correction import add_biases, correct_biases
from edgeopt.quantization.calibration import Arrays, observe
from edgeopt.quantization.calibrators import BINS, make_calibrator
from edgeopt.quantization.equalization import equalize
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import Placement, make_placement
from edgeopt.quantization.scheme import Scheme, make_scheme
from edgeopt.quantization.seen import Seen
from edgeopt.quantization.technique import Technique
from edgeopt.quantization.zero_shift import shift_zeros

#: that biases are corrected on: means are steady long before extremes are
CORRECTION_IMAGES = 128

#: that weights are rounded on: a layer has rows enough of them, and each image costs two runs per layer
ROUNDING_IMAGES = 256

Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Quantized:
    """What one technique gave.

    Attributes:
        graph: with pairs.
        exact: the float graph that they were put into, before its biases were corrected.
        seen: what was observed of each tensor that has a pair.
        equalized: how many pairs of layers were.
        shifted: how many tensors were moved around zero.
    """

    graph: onnx.ModelProto
    exact: onnx.ModelProto
    scheme: Scheme
    seen: dict[str, Seen]
    equalized: int = 0
    shifted: int = 0

    @property
    def placement(self) -> Placement:
        return self.scheme.placement


@dataclass(frozen=True)
class Quantizing:
    """All that techniques have in common: a folded graph, what the target wants, and samples.

    Attributes:
        draw: how many → batches of so many of the calibration samples, evenly; called once for each run over them.
        images: the samples in all.
        tell: progress.
    """

    graph: onnx.ModelProto
    profile: QuantizationProfile
    draw: Callable[[int], Iterable[Arrays]]
    images: int
    threads: int = 1
    seed: int = 0
    memo: Memo | None = None
    tell: Tell = field(default=lambda text, share: None)

    def run(self, technique: Technique) -> Quantized:
        """The graph quantized by a technique.

        Raises:
            PassError: it has nothing to quantize, or a value is not finite.
        """
        if misfit := technique.misfit(self.profile):
            raise PassError(misfit)
        graph, equalized = equalize(self.graph) if technique.equalize else (self.graph, 0)
        if technique.adaround or technique.bias_correction != "none" or technique.zero_shift:
            graph = add_biases(graph)
        placement = make_placement(graph, self.profile, technique.keep_float, technique.per_channel)
        _require_work(placement, self.profile)
        graph, shifted = self._shift(graph, placement) if technique.zero_shift else (graph, 0)
        if shifted:
            placement = make_placement(graph, self.profile, technique.keep_float, technique.per_channel)
        calibrator = make_calibrator(technique.method)
        seen = self._observe(graph, placement, BINS if calibrator.needs_histogram else 0)
        ranges = {tensor: calibrator.find_range(one, self.profile) for tensor, one in seen.items()}
        scheme = make_scheme(graph, placement, ranges, self.profile, technique.weight_method)
        if technique.adaround:
            scheme = replace(scheme, integers=self._round(graph, scheme, technique.adaround))
        full, none = technique.bias_correction == "full", technique.bias_correction == "none"
        corrected = graph if none else self._correct(graph, scheme, full=full)
        return Quantized(insert_pairs(corrected, scheme), graph, scheme, seen, equalized, shifted)

    @property
    def as_written(self) -> bool:
        """Whether this machine's integer kernels may saturate where the target's do not: its weights have 8 bits."""
        return self.profile.weight_bits > 7 and not environment.has_integer_dot_product()

    def weighted(self, technique: Technique) -> list[str]:
        """The nodes that would compute in integers with weights."""
        placement = make_placement(self.graph, self.profile, technique.keep_float, technique.per_channel)
        return [each.node for each in placement.weighted]

    def _shift(self, graph: onnx.ModelProto, placement: Placement) -> tuple[onnx.ModelProto, int]:
        seen = self._observe(graph, placement, 0)
        return shift_zeros(graph, placement, {tensor: one.range for tensor, one in seen.items()})

    def _observe(self, graph: onnx.ModelProto, placement: Placement, bins: int) -> dict[str, Seen]:
        done, total = 0, self.images * (2 if bins else 1)

        def on_batch(count: int) -> None:
            nonlocal done
            done = min(total, done + count)
            self.tell("calibrate", done / total)

        tensors = [pair.tensor for pair in placement.pairs]
        return observe(
            graph, tensors, self._all, bins=bins, threads=self.threads, on_batch=on_batch, memo=self.memo
        )  # fmt: skip

    def _all(self) -> Iterable[Arrays]:
        return self.draw(self.images)

    def _round(self, graph: onnx.ModelProto, scheme: Scheme, iterations: int) -> dict[str, NDArray[Any]]:
        from edgeopt.quantization.adaround import (
            adaround,
        )  # torch takes seconds, and nothing else here needs it

        def some() -> Iterable[Arrays]:
            return self.draw(min(ROUNDING_IMAGES, self.images))

        def on_layer(done: int, layers: int) -> None:
            self.tell("round", done / layers)

        return adaround(graph, scheme, some, iterations=iterations, seed=self.seed, on_layer=on_layer)

    def _correct(self, graph: onnx.ModelProto, scheme: Scheme, *, full: bool) -> onnx.ModelProto:
        done, images = 0, min(CORRECTION_IMAGES, self.images)

        def on_batch(count: int) -> None:
            nonlocal done
            done = min(images, done + count)
            self.tell("correct biases", done / images)

        return correct_biases(graph, scheme, self.draw(images), full=full, threads=self.threads, on_batch=on_batch)


def _require_work(placement: Placement, profile: QuantizationProfile) -> None:
    if not placement.weighted:
        raise PassError(
            f"the graph has nothing to quantize: no {', '.join(profile.weight_axes)} with a constant float32 weight",
            "leave `quantize_int8` out, or take names out of `keep_float`",
        )
