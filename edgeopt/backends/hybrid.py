"""One graph over several of ONNX Runtime's providers: each node runs on the first of a list that takes it.

A graph that is cut pays for every cut: tensors are copied or laid out anew, and what would have been fused is not. So a
build shows which part ran where, how many cuts there are, and how many copies between memories they cost. The CPU takes
nothing unless the list ends with it: ONNX Runtime by itself would run there whatever nobody wants.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from edgeopt import environment, files, onnx_sessions
from edgeopt.backends import Backend, Session, zeros
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu, OnnxruntimeSession
from edgeopt.backends.onnxruntime_cuda import OnnxruntimeCuda
from edgeopt.backends.onnxruntime_tensorrt import OnnxruntimeTensorrt, precision_flags
from edgeopt.backends.openvino_cpu import OpenvinoCpu
from edgeopt.context import Context
from edgeopt.errors import did_you_mean
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, list_files
from edgeopt.onnx_sessions import CPU, PROVIDERS, Opening, gpu
from edgeopt.onnx_sessions.coverage import take_coverage

MODEL = "model.onnx"

#: that run on an NVIDIA GPU
ON_GPU = ("tensorrt", "cuda")


class Hybrid(Backend):
    """Runs graphs by several of ONNX Runtime's providers, each node by the first of a list that takes it."""

    accepts: ClassVar[Form] = "onnx"

    providers: tuple[str, ...] = Field(
        default=(CPU,), min_length=1, description=f"the first choice first, `cpu` last: {', '.join(PROVIDERS)}"
    )
    provider_options: dict[str, dict[str, str]] = Field(
        default={}, description="provider → its own options, as ONNX Runtime names them"
    )

    @field_validator("providers")
    @classmethod
    def _are_known(cls, providers: tuple[str, ...]) -> tuple[str, ...]:
        for name in providers:
            if name not in PROVIDERS:
                raise ValueError(f"unknown provider `{name}`: {did_you_mean(name, PROVIDERS)}")
        if len(set(providers)) < len(providers):
            raise ValueError("a provider is named twice")
        if CPU in providers[:-1]:
            raise ValueError("`cpu` takes every node: what is named after it would run nothing")
        return providers

    @model_validator(mode="after")
    def _options_are_of_providers(self) -> Hybrid:
        for name in self.provider_options:
            if name not in self.providers:
                raise ValueError(f"options for `{name}`, which is not among `providers`")
        return self

    def available(self) -> None:
        onnx_sessions.require_providers(self.providers)
        for name in set(ON_GPU).intersection(self.providers):
            gpu.require_gpu(name, int(self.provider_options.get(name, {}).get("device_id", 0)))

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile | None:
        """What the backend of the first provider wants, as far as it has one: that is where most of the graph runs."""
        first: dict[str, Backend] = {
            "tensorrt": OnnxruntimeTensorrt(),
            "openvino": OpenvinoCpu(),
            CPU: OnnxruntimeCpu(),
        }
        return first[self.providers[0]].profile(isa) if self.providers[0] in first else None

    def machine(self) -> dict[str, str]:
        return gpu.machine() if set(ON_GPU).intersection(self.providers) else {}

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        files.copy(model.path, folder / MODEL)
        options = self._completed(model.path)
        artifact = Artifact(
            target=context.target,
            backend="hybrid",
            files=list_files(folder, [MODEL]),
            inputs=model.inputs,
            outputs=model.outputs,
            requires={
                "onnxruntime": onnx_sessions.import_runtime().__version__,
                "isa": environment.needed_isa(context.isa, exact=bool(model.ranges)),
                "providers": ", ".join(self.providers),
            },
            settings={"threads": context.threads, "batch": context.batch, **options.model_dump(mode="json")},
            folder=folder,
        )
        seen = options._opening(context.threads, also=CPU)
        coverage = take_coverage(onnx_sessions.graph_path(artifact), seen, zeros(artifact, context.batch))
        coverage.require(self.providers)
        return artifact.model_copy(update={"facts": coverage.facts()})

    def open(self, artifact: Artifact) -> Session:
        options = onnx_sessions.recorded(Hybrid, artifact)
        options.available()
        opening = options._opening(int(artifact.settings["threads"]))
        session = onnx_sessions.open_session(onnx_sessions.graph_path(artifact), opening)
        outputs = [spec.name for spec in artifact.outputs]
        return OnnxruntimeSession(onnx_sessions.run_on_host(session, outputs), artifact)

    def _completed(self, graph: Path) -> Hybrid:
        """With what providers of GPUs must be told beside the recipe: no rounding of float, the graph's integers."""
        known = {"cuda": OnnxruntimeCuda().provider_options()} if "cuda" in self.providers else {}
        if "tensorrt" in self.providers:
            from edgeopt.onnx_graph import load_graph

            known["tensorrt"] = precision_flags(load_graph(graph))
        merged = {name: known.get(name, {}) | self.provider_options.get(name, {}) for name in self.providers}
        return self.model_copy(update={"provider_options": {name: given for name, given in merged.items() if given}})

    def _opening(self, threads: int, also: str = "") -> Opening:
        """How a session opens; `also`: a provider that takes what those of the recipe leave, to name what that is."""
        names = dict.fromkeys((*self.providers, *([also] if also else [])))
        return Opening(threads=threads, providers={name: self.provider_options.get(name, {}) for name in names})
