"""OpenVINO's networks, opened in one way for all backends that use it: on the CPU, on Intel's GPUs and NPUs.

As it is, `import openvino` reports every import to its makers, with no consent asked: it writes an identity to
`~/intel` and forks a process that calls an analytics service. That is the work of `openvino_telemetry`; without it,
OpenVINO takes a stand-in of its own that does nothing. So it is imported as if that library were not installed.

biases.py      what convolutions need so that OpenVINO computes on a CPU what the graph says
devices.py     whether there is a GPU or an NPU, what is missing for one, and what it is called

A compiled network may be kept, so that it opens faster the next time. It belongs to a version of OpenVINO and to a
machine, so it lies beside the finished steps of the user and never in an artifact: a memo, which is checked when it is
read, and made again where it is damaged or gone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt import files
from edgeopt.context import Memo
from edgeopt.errors import BackendError, EdgeoptError, MissingError
from edgeopt.model import TensorSpec
from edgeopt.openvino_sessions.biases import give_biases
from edgeopt.store import default_root

CPU = "CPU"
INSTALL = "`pip install edgeopt[openvino]`"
TELEMETRY = "openvino_telemetry"

#: in place of the key of data, in the memos of compiled networks
COMPILED = "openvino"

PRECISION = "INFERENCE_PRECISION_HINT"

#: how lines of an error begin that say where in OpenVINO it was raised, and not what is wrong
PLACES = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't", "Summary", "While validating")


@dataclass(frozen=True)
class Opening:
    """How a network is opened.

    Attributes:
        device: OpenVINO's name of it: `CPU`, `GPU.1`.
        properties: of the compiled network, by OpenVINO's names.
        machine: what of this machine a compiled network depends on, if it is to be kept; none is, where that is empty.
    """

    device: str
    properties: Mapping[str, Any]
    machine: Sequence[object] = ()


def open_network(path: Path, inputs: Sequence[TensorSpec], opening: Opening) -> Any:
    """OpenVINO's own compiled model of the graph at `path`, for inputs of these shapes.

    Raises:
        BackendError: OpenVINO refuses the graph, or the shapes, or computes in another precision than it was asked to.
        MissingError: it is not installed.
    """
    core = start_core()
    try:
        compiled = _open(core, path, inputs, opening) if not opening.machine else _keep(core, path, inputs, opening)
    except EdgeoptError:
        raise
    except Exception as error:  # most are RuntimeError, but none is promised
        raise BackendError(f"OpenVINO cannot run `{path}`: {first_line(error)}") from error
    asked = opening.properties.get(PRECISION)
    found = compiled.get_property(PRECISION).get_type_name() if asked else asked
    if found != asked:
        raise BackendError(f"OpenVINO computes in {found} on this {opening.device}, and was asked for {asked}")
    return compiled


def _open(core: Any, path: Path, inputs: Sequence[TensorSpec], opening: Opening) -> Any:
    network = core.read_model(str(path))
    read = names(network.inputs)
    network.reshape({spec.name: _partial_shape(spec) for spec in inputs if spec.name in read})
    if opening.device == CPU:
        give_biases(network)
    return core.compile_model(network, opening.device, dict(opening.properties))


def _keep(core: Any, path: Path, inputs: Sequence[TensorSpec], opening: Opening) -> Any:
    """The compiled network as it was kept, or as it is now and from now on."""
    properties = {name: str(value) for name, value in opening.properties.items()}
    shapes = [[spec.name, *spec.shape] for spec in inputs]
    version = import_runtime().get_version()
    parts = [version, files.hash_file(path), shapes, opening.device, properties, list(opening.machine)]
    memo = Memo(default_root() / "memos", COMPILED)
    kept = memo.get(parts)
    if kept is not None:
        return core.import_model(kept, opening.device, dict(opening.properties))
    compiled = _open(core, path, inputs, opening)
    memo.put(parts, compiled.export_model().getvalue())
    return compiled


def count_precisions(compiled: Any) -> dict[str, int]:
    """How many nodes of a compiled network compute in each precision; its ends and constants are not counted."""
    found: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        kind, precision = (str(told[name].value) for name in ("layerType", "runtimePrecision"))
        if kind not in ("Input", "Output", "Const", "Parameter", "Result"):
            found[precision] = found.get(precision, 0) + 1
    return dict(sorted(found.items()))


def batch_sizes(inputs: Sequence[TensorSpec], batch: int) -> dict[str, int]:
    """`batch` for the symbols that inputs have on their first axis."""
    return {spec.shape[0]: batch for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}


def names(ports: Any) -> set[str]:
    """The tensors behind these ports; OpenVINO drops inputs that nothing reads."""
    return {name for port in ports for name in port.get_names()}


def _partial_shape(spec: TensorSpec) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in spec.shape]


def import_runtime() -> Any:
    """The module `openvino`, which reports nothing to anybody.

    Raises:
        MissingError: it is not installed.
    """
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise MissingError("OpenVINO is not installed", INSTALL) from error
    return openvino


def start_core() -> Any:
    """OpenVINO's core of this process, which has looked for devices.

    As it looks, it notes on which cores the threads of this process may run. In each run it lets the calling thread go
    there, whatever was said since.

    Raises:
        MissingError: it is not installed.
    """
    return _start(import_runtime())


@functools.cache
def _start(runtime: Any) -> Any:
    core = runtime.Core()
    _ = core.available_devices
    return core


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Meanwhile `openvino_telemetry` seems not to be installed.

    What OpenVINO imports keeps the stand-in; whoever else wants that library in this process finds it as before.
    """
    modules: dict[str, Any] = sys.modules
    was_there, before = TELEMETRY in modules, modules.get(TELEMETRY)
    modules[TELEMETRY] = None
    try:
        yield
    finally:
        if was_there:
            modules[TELEMETRY] = before
        else:
            modules.pop(TELEMETRY, None)


def first_line(error: Exception) -> str:
    """The first line that says what is wrong."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(PLACES)]
    return told[0] if told else type(error).__name__
