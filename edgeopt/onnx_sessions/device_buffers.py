"""Runs on a device beside the CPU, with buffers there that are made once.

ONNX Runtime would take new memory of the device for each input and output of each run. Here inputs are copied into
buffers that are kept, outputs are copied back into fresh arrays, and two runs at once have buffers of their own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.model import TensorSpec
from edgeopt.onnx_sessions import import_runtime

if TYPE_CHECKING:
    import onnxruntime

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]

#: buffers that nobody uses are kept for so many runs at once; those of the oldest run go first
MOST_KEPT = 8


class DeviceBuffers:
    """What runs batches of one session: call it with arrays by name."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec],
        device: tuple[str, int], alone: bool = False,
    ) -> None:  # fmt: skip
        """Args:
        device: kind and number, such as `("cuda", 0)`.
        alone: one run at a time, always in the same buffers, as a captured graph of kernels wants it.
        """
        self._session, self._device = session, device
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._idle: list[_Buffers] = []
        self._turn: contextlib.AbstractContextManager[Any] = threading.Lock() if alone else contextlib.nullcontext()

    def __call__(self, inputs: Arrays) -> Arrays:
        with self._turn:
            buffers = self._take({spec.name: inputs[spec.name].shape for spec in self._inputs})
            outputs = buffers.run(self._session, inputs)
            self._idle.append(buffers)  # not after a failure: whatever it left behind goes with it
            del self._idle[:-MOST_KEPT]
            return outputs

    def _take(self, shapes: Shapes) -> _Buffers:
        """Idle buffers for these shapes, or new ones; another thread may take the last ones at any moment."""
        for buffers in reversed(self._idle):
            if buffers.shapes == shapes:
                with contextlib.suppress(ValueError):
                    self._idle.remove(buffers)
                    return buffers
        return _Buffers(self._session, shapes, self._inputs, self._outputs, self._device)


class _Buffers:
    """The memory of one run, and where each name of the session is bound to it."""

    def __init__(
        self, session: onnxruntime.InferenceSession, shapes: Shapes, inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec], device: tuple[str, int],
    ) -> None:  # fmt: skip
        self.shapes = shapes
        self._names = [spec.name for spec in outputs]
        sizes = {axis: size for spec in inputs for axis, size in zip(spec.shape, shapes[spec.name], strict=True)}
        self._binding = session.io_binding()
        self._values = {spec.name: _new_value(shapes[spec.name], spec.dtype, device) for spec in inputs}
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        for spec in outputs:
            shape = _resolve(spec, sizes)
            if shape is None:  # ONNX Runtime finds memory once it knows the shape
                self._binding.bind_output(spec.name, *device)
            else:
                self._binding.bind_ortvalue_output(spec.name, _new_value(shape, spec.dtype, device))

    def run(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
        for name, value in self._values.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self._binding.synchronize_inputs()
        session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))


def _new_value(shape: tuple[int, ...], dtype: str, device: tuple[str, int]) -> Any:
    return import_runtime().OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(dtype).type, *device)


def _resolve(spec: TensorSpec, sizes: Mapping[int | str, int]) -> tuple[int, ...] | None:
    """The shape of an output with sizes for symbols; None where a symbol is not known before it runs."""
    shape = [axis if isinstance(axis, int) else sizes.get(axis) for axis in spec.shape]
    return None if None in shape else tuple(axis for axis in shape if axis is not None)
