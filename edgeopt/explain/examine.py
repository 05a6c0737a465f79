"""What runs in a worker: sessions are opened here, on files that the report names."""

from __future__ import annotations

from pathlib import Path

from edgeopt.explain import Cause, Noise
from edgeopt.explain.accuracy import find_noise
from edgeopt.explain.artifacts import Inputs
from edgeopt.explain.layers import Source
from edgeopt.explain.machine import this_machine
from edgeopt.explain.profile import take_profile
from edgeopt.explain.speed import find_causes
from edgeopt.model import Artifact, list_files
from edgeopt.onnx_graph import input_specs, load_graph, output_specs
from edgeopt.quantization.fold import fold


def examine_speed(
    path: Path, threads: int, batch: int, passes: tuple[str, ...], not_faster: bool
) -> tuple[float, tuple[Cause, ...]]:
    """The milliseconds of a run of the graph at `path`, and what they are spent on.

    Raises:
        BackendError: ONNX Runtime cannot open or run it.
        SourceError: the file holds no graph.
    """
    source, machine = Source(load_graph(path)), this_machine()
    artifact = Artifact(
        target="", backend="onnxruntime_cpu", files=list_files(path.parent, [path.name]), folder=path.parent,
        inputs=input_specs(source.graph), outputs=output_specs(source.graph),
        settings={"threads": threads, "batch": batch},
    )  # fmt: skip
    profile = take_profile(artifact, source.graph, machine.cores)
    return profile.run_us / 1e3, find_causes(profile, source, machine, passes, not_faster)


def examine_noise(quantized: Path, exact: Path, inputs: Inputs, threads: int) -> tuple[Noise, tuple[Cause, ...]]:
    """The noise of a quantized graph against the one that `quantize_int8` was given, and what is to blame for it.

    Raises:
        BackendError: ONNX Runtime cannot open or run one of them.
        SourceError: one of the files holds no graph.
    """
    graph, folded = load_graph(quantized), fold(load_graph(exact))
    batches, told = inputs.load(graph)
    return find_noise(folded, graph, batches, told, threads)
