"""AdaRound: each weight is rounded up or down as the result of its layer wants it, not to what is nearest.

After Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020: layer by layer, each weight is
its floor plus a share between 0 and 1 (their rectified sigmoid), trained so that the layer makes of the inputs that it
will see, those of the network as quantized so far, what the float network makes. The activation that is fused with the
layer counts. A regularizer, annealed, drives the shares to 0 or 1. Other than there, error and regularizer are divided
by what they are at nearest rounding and by the number of weights, so that one balance suits layers of any size.

A weight that is zero stays zero, which sparse networks are to be to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.quantization.arithmetic import Quantizer
from edgeopt.quantization.rows import Layer, apply_rows, make_layer
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.simulation import limits, quantize_activations, scale_of, sees
from edgeopt.quantization.twin import Twin
from edgeopt.quantization.wiring import Wiring

Arrays = dict[str, NDArray[Any]]

ITERATIONS = 1000

#: of a layer: rows that are kept, fewer where they would hold more numbers than that; rows of an image, and of a step
ROWS, NUMBERS, ROWS_PER_IMAGE, ROWS_PER_STEP = 4096, 2**23, 32, 128

#: the rectified sigmoid reaches a little beyond 0 and 1, where its gradient would vanish
LOWEST, HIGHEST = -0.1, 1.1

#: the exponent of the regularizer falls from one to the other; it waits for the first part of the steps
EXPONENTS, WAIT = (20.0, 2.0), 0.2
REGULARIZER, LEARNING_RATE = 3.0, 0.03


@dataclass(frozen=True)
class _Task:
    """One layer: rows of its input, its results in float with the fused activation, and that activation."""

    layer: Layer
    quantizer: Quantizer
    rows: Tensor
    targets: Tensor
    bias: Tensor | None
    activate: Callable[[Tensor], Tensor]

    def error(self, matrix: Tensor, chosen: Tensor | slice = slice(None)) -> Tensor:
        """The mean squared error of the layer's result."""
        found = self.activate(apply_rows(self.rows[chosen], matrix, self.bias))
        return (found - self.targets[chosen]).square().mean()


def adaround(
    graph: onnx.ModelProto,
    scheme: Scheme,
    batches: Callable[[], Iterable[Arrays]],
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, NDArray[Any]]:
    """`Scheme.integers` for every weighted node of a folded graph: at most one step from nearest rounding.

    A layer for which training found nothing better keeps what nearest rounding gives.

    Args:
        batches: makes batches of calibration samples, which run twice for each layer; called anew for each.
        on_layer: told how many layers are done, and of how many.
    """
    twin, integers = Twin(graph).requires_grad_(False), dict(scheme.integers)
    known = {name: _dequantize(scheme.weights[name], array) for name, array in integers.items()}
    order = [each for each in scheme.placement.weighted if each.node not in integers]
    wiring = Wiring(graph)
    for done, weighted in enumerate(order):
        generator = torch.Generator().manual_seed(_mix(seed, done))
        task = _gather(twin, scheme, weighted.node, known, batches(), wiring, generator)
        chosen = _round_layer(task, twin.tensor(weighted.weight), iterations, generator)
        integers[weighted.node] = chosen
        known[weighted.node] = _dequantize(task.quantizer, chosen)
        on_layer(done + 1, len(order))
    return integers


def _dequantize(quantizer: Quantizer, integers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(quantizer.dequantize(integers))


def _mix(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def _gather(
    twin: Twin,
    scheme: Scheme,
    name: str,
    known: dict[str, Tensor],
    batches: Iterable[Arrays],
    wiring: Wiring,
    generator: torch.Generator,
) -> _Task:
    """Rows of a layer from the batches, of which a random few are kept."""
    layer, node = make_layer(twin, name), twin.nodes[name]
    quantize, seen = quantize_activations(scheme.activations), sees(scheme.placement)
    activate = _fused(twin, node, scheme, wiring)
    rows = targets = keys = torch.empty(0)
    for batch in batches:
        inputs = {key: torch.from_numpy(array) for key, array in batch.items()}
        exact = _input_of(name, twin.run(inputs))
        # Weights that are not known are of layers that stay in float: the run ends before those that are to be rounded.
        coarse = _input_of(name, twin.run(inputs, on_activation=quantize, on_weight=known.get, sees=seen))
        made = activate(twin.apply_node(node, exact)[node.output[0]])
        new_rows, new_targets = layer.pick(coarse[node.input[0]], made, ROWS_PER_IMAGE, generator)
        new_keys = torch.rand(len(new_rows), generator=generator)
        if len(keys):
            new_rows, new_targets = torch.cat([rows, new_rows]), torch.cat([targets, new_targets])
            new_keys = torch.cat([keys, new_keys])
        most = min(ROWS, max(ROWS_PER_STEP, NUMBERS // new_rows[0].numel()), len(new_keys))
        kept = new_keys.topk(most, largest=False).indices
        rows, targets, keys = new_rows[kept], new_targets[kept], new_keys[kept]
    bias = twin.tensor(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return _Task(layer, scheme.weights[name], rows, targets, bias, activate)


def _input_of(name: str, run: Iterable[tuple[onnx.NodeProto, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """What a node reads in a run, which ends there."""
    return next(values for node, values in run if node.name == name)


def _fused(twin: Twin, node: onnx.NodeProto, scheme: Scheme, wiring: Wiring) -> Callable[[Tensor], Tensor]:
    """The activation that is folded into a node, on values of any shape."""
    found = wiring.activation_of(node.output[0], scheme.profile.fused_activations)
    parameters = [wiring.array(name) for each in found[:1] for name in each.input[1:] if name]
    if any(array is None or array.size > 1 for array in parameters):  # such as a slope for each channel
        return lambda values: values

    def activate(values: Tensor) -> Tensor:
        known = {node.output[0]: values}
        for each in found:
            known |= twin.apply_node(each, known)
        return known[(node, *found)[-1].output[0]]

    return activate


def _round_layer(task: _Task, weight: Tensor, iterations: int, generator: torch.Generator) -> NDArray[Any]:
    """The integers of one layer."""
    quantizer = task.quantizer
    low, high = limits(quantizer)
    steps = (weight / scale_of(quantizer, weight.dim())).double()
    scale = task.layer.to_matrix(scale_of(quantizer, weight.dim()).expand(weight.shape))
    nearest = torch.from_numpy(quantizer.quantize(weight.numpy()).astype(np.int64)) - int(quantizer.zero_point.flat[0])
    floor, rounded = (task.layer.to_matrix(each).float() for each in (steps.floor(), nearest))

    used = task.layer.to_matrix(weight != 0).float()

    def weights_of(integers: Tensor) -> Tensor:
        return integers.clamp(low, high) * scale * used

    least = float(task.error(weights_of(rounded)))
    shares = _train_shares(
        task, floor, task.layer.to_matrix(steps).float() - floor, weights_of, least, iterations, generator
    )
    trained = (floor + (shares >= 0.5)).clamp(low, high) * used
    best = trained if float(task.error(weights_of(trained))) < least else rounded
    moved = task.layer.from_matrix(best).numpy() + quantizer.zero_point.flat[0].astype(np.int64)
    return np.ascontiguousarray(moved.astype(quantizer.zero_point.dtype))


def _train_shares(
    task: _Task,
    floor: Tensor,
    start: Tensor,
    weights_of: Callable[[Tensor], Tensor],
    least: float,
    iterations: int,
    generator: torch.Generator,
) -> Tensor:
    """How far each weight is above its floor, between 0 and 1, at the end of the training."""
    hidden = torch.logit((start - LOWEST) / (HIGHEST - LOWEST)).requires_grad_()
    optimizer = torch.optim.Adam([hidden], lr=LEARNING_RATE)
    waits = int(WAIT * iterations)
    for step in range(iterations if least > 0 else 0):
        chosen = torch.randint(0, len(task.rows), (min(ROWS_PER_STEP, len(task.rows)),), generator=generator)
        shares = _shares(hidden)
        loss = task.error(weights_of(floor + shares), chosen) / least
        if step >= waits:
            exponent = _exponent((step - waits) / (iterations - waits))
            loss = loss + REGULARIZER * (1 - (2 * shares - 1).abs().pow(exponent)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return _shares(hidden.detach())


def _shares(hidden: Tensor) -> Tensor:
    return (torch.sigmoid(hidden) * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)


def _exponent(done: float) -> float:
    first, last = EXPONENTS
    return last + (first - last) * (1 - done)
