"""What moves through the pipeline: tensor specs, models, artifacts, and what a backend wants of a graph.

Values are frozen, and plain data but for the files that they name. Those lie in `folder`, which is where the value was
read from and is not part of it: a step's result can be renamed into the store, copied or shipped without change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeopt import files

Form = Literal["torch", "onnx"]


class Value(BaseModel):
    """The base of all plain-data values: frozen, closed, free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(data: object) -> bytes:
    """`data` as JSON bytes that are the same for the same content: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class TensorSpec(Value):
    """One input or output: an axis is an int, or a symbol such as `batch` where it may vary."""

    name: str
    dtype: str = "float32"
    shape: tuple[int | str, ...]

    def with_batch(self, batch: int) -> tuple[int, ...]:
        """The shape with every symbolic axis replaced by `batch`."""
        return tuple(axis if isinstance(axis, int) else batch for axis in self.shape)


class Edit(Value):
    """One structure edit of a torch network, replayed on a fresh module.

    `kind` is the name of a file in `edgeopt.edits`; `module` is the dotted name of the submodule that it
    changes; `arguments` is plain data (for `keep_channels`: axis `out` or `in`, and the channel indices that stay).
    """

    kind: str
    module: str
    arguments: dict[str, Any]


class TorchValue(Value):
    """A torch network as plain data: a fresh module from `factory`, the edits replayed on it, its tensors loaded."""

    form: Literal["torch"] = "torch"
    factory: str = Field(description="path/to/file.py:callable, the path relative to `Model.sources`")
    options: dict[str, Any] = {}
    edits: tuple[Edit, ...] = ()
    weights: str = Field(default="weights.safetensors", description="file name inside `Model.folder`")

    @property
    def file(self) -> str:
        return self.weights


class OnnxValue(Value):
    """An ONNX graph with its tensors inside one file."""

    form: Literal["onnx"] = "onnx"
    file: str = Field(default="model.onnx", description="file name inside `Model.folder`")


class ActivationRange(Value):
    """A known quantization of one tensor; `axis` is None for one scale over the whole tensor."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


class Model(Value):
    """A network in one form, with the specs of its inputs and outputs."""

    value: TorchValue | OnnxValue = Field(discriminator="form")
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: dict[str, ActivationRange] = {}
    folder: Path = Field(default=Path("."), exclude=True)
    sources: Path = Field(default=Path("."), exclude=True, description="the folder that `factory` is relative to")

    @property
    def form(self) -> Form:
        return self.value.form

    @property
    def path(self) -> Path:
        """The file that holds the tensors (torch) or the graph (ONNX)."""
        return self.folder / self.value.file

    def digest(self) -> str:
        """SHA-256 over the description and the file: two equal models have equal digests wherever they lie."""
        described = canonical_json(self.model_dump(mode="json"))
        return hashlib.sha256(described + files.hash_file(self.path).encode()).hexdigest()

    def at(self, folder: Path, sources: Path) -> Model:
        """The same model with its files looked for in `folder` and its factory in `sources`."""
        return self.model_copy(update={"folder": folder, "sources": sources})


MODEL_FILE = "model.json"


def write_model(model: Model, folder: Path) -> Model:
    """Write `model` with its file into `folder`, and return it as it lies there."""
    if model.folder.resolve() != folder.resolve():
        files.copy(model.path, folder / model.value.file)
    files.write_bytes(folder / MODEL_FILE, canonical_json(model.model_dump(mode="json")))
    return model.at(folder, model.sources)


def load_model(folder: Path, sources: Path | None = None) -> Model:
    """The model that `write_model` left in `folder`; factories are relative to `sources` (default: the folder)."""
    model = Model.model_validate_json((folder / MODEL_FILE).read_bytes())
    return model.at(folder, folder if sources is None else sources)


class ArtifactFile(Value):
    """One file by its path inside the folder that holds it."""

    path: str
    sha256: str
    size_bytes: int


class Artifact(Value):
    """The built files of one candidate, and what a machine must have to open them.

    `requires` maps a name (`isa`, `onnxruntime`, …) to what is needed. `settings` are the backend's own plain data,
    fixed at build time: threads and batch among them.
    """

    target: str
    backend: str
    files: tuple[ArtifactFile, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: dict[str, str] = {}
    settings: dict[str, Any] = {}
    facts: dict[str, str | int | float] = Field(default={}, description="for the report: name → number or short text")
    unbuilt: str = Field(default="", description="why this is what a device builds from, and not what it runs")
    folder: Path = Field(default=Path("."), exclude=True)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"facts"}))).hexdigest()

    def at(self, folder: Path) -> Artifact:
        return self.model_copy(update={"folder": folder})


ARTIFACT_FILE = "artifact.json"


def list_files(folder: Path, names: list[str]) -> tuple[ArtifactFile, ...]:
    """The named files of `folder` with digest and size, sorted by name."""
    return tuple(
        ArtifactFile(path=name, sha256=files.hash_file(folder / name), size_bytes=(folder / name).stat().st_size)
        for name in sorted(names)
    )


def write_artifact(artifact: Artifact, folder: Path) -> None:
    files.write_bytes(folder / ARTIFACT_FILE, canonical_json(artifact.model_dump(mode="json")))


def load_artifact(folder: Path) -> Artifact:
    return Artifact.model_validate_json((folder / ARTIFACT_FILE).read_bytes()).at(folder)


class QuantizationProfile(Value):
    """What a backend wants to see in a quantized graph; plain data, declared by the backend, read by the inserter."""

    name: str
    activation_dtype: Literal["uint8", "int8"]
    weight_dtype: Literal["uint8", "int8"]
    activation_symmetric: bool = False
    weight_bits: int = Field(default=8, description="7 keeps u8×s8 pair sums inside int16 where the CPU has no VNNI")
    weight_axes: dict[str, int] = Field(description="operator → the axis of its weight that has a scale of its own")
    quantized_ops: tuple[str, ...] = Field(description="operators that compute in integers")
    passthrough_ops: tuple[str, ...] = Field(default=(), description="operators that keep their input's scale")
    integer_moves: tuple[str, ...] = Field(
        default=(),
        description="of `passthrough_ops`, those that read and write integers themselves, with no pair around",
    )
    fused_activations: tuple[str, ...] = Field(
        default=(), description="operators folded into the one before them; Swish is x · Sigmoid(x), too"
    )
    float_output_ops: tuple[str, ...] = Field(
        default=(),
        description="of `quantized_ops`, those that may take integers and give floats, as Gemm in ONNX Runtime",
    )
    quantize_bias: bool = True
    quantize_residual: bool = Field(
        default=True, description="both inputs of a sum; else the skip branch only, so that the other one is fused"
    )
    quantize_outputs: bool = Field(
        default=True, description="pairs behind operators that compute in integers, too; else only before them"
    )
    integer_outputs: bool = Field(default=False, description="what makes an output of the graph is in integers, too")
    least_channels: int = Field(
        default=0, description="with fewer, and no multiple of `channel_multiple`, a convolution stays in float"
    )
    channel_multiple: int = 1
    zero_shift: bool = Field(
        default=False, description="a constant may be taken off an activation before its pair, which has no zero point"
    )
    fixed_ranges: dict[str, tuple[float, float]] = Field(
        default={}, description="operator → the range of its result, whatever calibration saw"
    )


Facts = Mapping[str, str | int | float]
