"""OpenVINO on the NPU of Intel's Core Ultra CPUs: the graph as it is, for fixed shapes.

An NPU computes in float16 what the graph has in float32, and has nothing else for it: there is no option, the facts of
an artifact say so, and accuracy is measured on what it computes. It takes no shape that is left open.

Nothing here was measured, and nothing was run on an NPU yet: what it wants is taken from OpenVINO's documentation and
from what its makers' own quantizer, NNCF, leaves for NPUs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from edgeopt import environment, files, openvino_sessions
from edgeopt.backends import Backend, Session
from edgeopt.backends.openvino_cpu import OpenvinoSession, make_profile
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, TensorSpec, list_files
from edgeopt.onnx_sessions import fix_axes, recorded
from edgeopt.openvino_sessions import Opening, devices

KIND = "NPU"
MODEL = "model.onnx"


class OpenvinoNpu(Backend):
    """Runs float and QDQ graphs on an Intel NPU, for fixed shapes; what is float is computed in float16."""

    accepts: ClassVar[Form] = "onnx"

    cache: bool = Field(
        default=False, description="keep the compiled network in the user's cache folder, to open it faster again"
    )

    def available(self) -> None:
        devices.require_device(KIND)

    def machine(self) -> dict[str, str]:
        return devices.machine(KIND)

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """s8 around zero, for activations as for weights; a scale per channel for weights, all 8 bits of them.

        NNCF lets an NPU have zero points as well, and makes symmetric pairs unless asked for others. Not measured.
        """
        return make_profile(name="openvino_npu", activation_dtype="int8", activation_symmetric=True)

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        self.available()
        sizes = openvino_sessions.batch_sizes(model.inputs, context.batch)
        inputs = fix_axes(model.inputs, sizes)
        require_fixed(inputs)
        files.copy(model.path, folder / MODEL)
        return Artifact(
            target=context.target,
            backend="openvino_npu",
            files=list_files(folder, [MODEL]),
            inputs=inputs,
            outputs=fix_axes(model.outputs, sizes),
            requires={"openvino": environment.library_version("openvino") or "unknown", "npu": "intel"},
            settings={"threads": context.threads, "batch": context.batch, **self.model_dump()},
            facts={**devices.describe_device(KIND), "float precision": "f16"},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        devices.require_device(KIND)
        cache = recorded(OpenvinoNpu, artifact).cache
        opening = Opening(KIND, {"PERFORMANCE_HINT": "LATENCY"}, [devices.machine(KIND)] if cache else ())
        path = artifact.folder / artifact.files[0].path
        return OpenvinoSession(openvino_sessions.open_network(path, artifact.inputs, opening), artifact)


def require_fixed(inputs: tuple[TensorSpec, ...]) -> None:
    """Return if all axes are numbers.

    Raises:
        BackendError: names the first input that has another.
    """
    for spec in inputs:
        symbols = [axis for axis in spec.shape if isinstance(axis, str)]
        if symbols:
            message = f"an NPU takes fixed shapes, and `{spec.name}` has the axis `{symbols[0]}`"
            raise BackendError(message, "give all sizes under `inputs:` of the model")
