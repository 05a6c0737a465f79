"""OpenVINO on Intel's GPUs, inside the CPU or on a card: the graph as it is, for one batch size.

Left alone, OpenVINO computes in float16 on a GPU what the graph has in float32. Here it computes in what the graph says
unless `float16` is set; the facts of an artifact name the precision, and how many nodes ran in each.

Nothing here was measured, and nothing was run on such a GPU yet: what it wants is taken from OpenVINO's documentation
and from what its makers' own quantizer, NNCF, leaves for GPUs. Compiling takes seconds there, so `cache` is worth more
than on a CPU.
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
from edgeopt.model import Artifact, Facts, Form, Model, QuantizationProfile, list_files
from edgeopt.onnx_sessions import fix_axes, recorded
from edgeopt.openvino_sessions import PRECISION, Opening, devices

KIND = "GPU"
MODEL = "model.onnx"


class OpenvinoGpu(Backend):
    """Runs float and QDQ graphs on an Intel GPU, for one batch size."""

    accepts: ClassVar[Form] = "onnx"

    device_id: int = Field(default=0, ge=0, description="number of the GPU")
    float16: bool = Field(default=False, description="compute in float16 what the graph has in float32")
    cache: bool = Field(
        default=False, description="keep the compiled network in the user's cache folder, to open it faster again"
    )

    def available(self) -> None:
        devices.require_device(KIND, self.device_id)

    def machine(self) -> dict[str, str]:
        return devices.machine(KIND)

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """u8 activations with zero points, s8 weights with a scale per channel, all 8 bits of them; float biases.

        Its integer units sum products in 32 bits (DP4A, XMX), so that nothing saturates. Pairs stand where integers are
        read, as on the CPU. Not measured.
        """
        return make_profile(name="openvino_gpu", activation_dtype="uint8")

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        self.available()
        files.copy(model.path, folder / MODEL)
        sizes = openvino_sessions.batch_sizes(model.inputs, context.batch)
        artifact = Artifact(
            target=context.target,
            backend="openvino_gpu",
            files=list_files(folder, [MODEL]),
            inputs=fix_axes(model.inputs, sizes),
            outputs=fix_axes(model.outputs, sizes),
            requires={"openvino": environment.library_version("openvino") or "unknown", "gpu": "intel"},
            settings={"threads": context.threads, "batch": context.batch, **self.model_dump()},
            folder=folder,
        )
        opening = self._opening()
        compiled = openvino_sessions.open_network(folder / MODEL, artifact.inputs, opening)
        counted: Facts = {
            f"nodes in {name}": number for name, number in openvino_sessions.count_precisions(compiled).items()
        }
        precision = {"float precision": str(opening.properties[PRECISION])}
        facts = {**devices.describe_device(opening.device), **precision, **counted}
        return artifact.model_copy(update={"facts": facts})

    def open(self, artifact: Artifact) -> Session:
        opening = recorded(OpenvinoGpu, artifact)._opening()
        path = artifact.folder / artifact.files[0].path
        return OpenvinoSession(openvino_sessions.open_network(path, artifact.inputs, opening), artifact)

    def _opening(self) -> Opening:
        device = devices.require_device(KIND, self.device_id)
        properties = {"PERFORMANCE_HINT": "LATENCY", PRECISION: "f16" if self.float16 else "f32"}
        return Opening(device, properties, [devices.machine(KIND), self.device_id] if self.cache else ())
