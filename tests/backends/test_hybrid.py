"""Several providers in one session: what is not there is named, and what ran where is told."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from pydantic import ValidationError

from edgeopt.backends import build_artifact, opened, zeros
from edgeopt.backends.hybrid import Hybrid
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.backends.onnxruntime_cuda import OnnxruntimeCuda
from edgeopt.backends.openvino_cpu import OpenvinoCpu
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Model
from edgeopt.onnx_sessions import Opening
from edgeopt.onnx_sessions.coverage import Coverage, Ran
from edgeopt.quantization.profiles import TENSORRT


def test_the_cpu_alone_runs_everything_in_one_part(onnx_model: Model, tmp_path: Path) -> None:
    context = Context(folder=tmp_path, target="here", batch=2)
    artifact = build_artifact("hybrid", onnx_model, context, {"providers": ["cpu"]})
    assert artifact.facts["coverage"] == "CPU 100 % of nodes, 100 % of time"
    assert artifact.facts["copies"] == 0
    assert str(artifact.facts["parts"]).startswith("1: CPU ")
    assert artifact.settings["providers"] == ["cpu"]
    assert artifact.requires["providers"] == "cpu"
    with opened(artifact) as session:
        assert session.run(zeros(artifact, 2))["output"].shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"providers": ["opnvino", "cpu"]}, "unknown provider `opnvino`: did you mean `openvino`"),
        ({"providers": ["cpu", "xnnpack"]}, "`cpu` takes every node"),
        ({"providers": ["xnnpack", "xnnpack"]}, "named twice"),
        ({"providers": []}, "at least 1 item"),
        ({"providers": ["cpu"], "provider_options": {"openvino": {}}}, "options for `openvino`"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Hybrid.model_validate(options)


def test_a_provider_that_this_onnx_runtime_lacks_is_named_with_those_that_it_has(
    onnx_model: Model, tmp_path: Path
) -> None:
    if "XnnpackExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built with XNNPACK")
    with pytest.raises(MissingError, match="no provider `xnnpack`") as caught:
        build_artifact("hybrid", onnx_model, Context(folder=tmp_path), {"providers": ["xnnpack", "cpu"]})
    assert "cpu" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_node_that_only_the_cpu_took_fails_a_build_that_does_not_name_the_cpu(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is real, on the CPU: only the provider that the recipe wanted is taken out of what is opened."""
    monkeypatch.setattr(Hybrid, "_opening", lambda self, threads, also="": Opening(threads=threads))
    with pytest.raises(BackendError, match=r"not on XNNPACK, but on CPU ran .*Conv"):
        Hybrid(providers=("xnnpack",)).build(onnx_model, Context(folder=tmp_path), tmp_path)


def test_options_of_a_provider_reach_onnx_runtime() -> None:
    hybrid = Hybrid(providers=("openvino", "cpu"), provider_options={"openvino": {"device_type": "GPU"}})
    assert hybrid._opening(2).providers == {"openvino": {"device_type": "GPU"}, "cpu": {}}
    assert list(Hybrid(providers=("openvino",))._opening(1, also="cpu").providers) == ["openvino", "cpu"]


def test_gpus_are_told_what_their_own_backends_tell_them(onnx_model: Model) -> None:
    given = {"cuda": {"use_tf32": "1"}, "openvino": {"device_type": "GPU"}}
    found = Hybrid(providers=("cuda", "openvino", "cpu"), provider_options=given)._completed(onnx_model.path)
    assert found.provider_options == given | {"cuda": OnnxruntimeCuda(use_tf32=True).provider_options()}
    assert Hybrid(providers=("tensorrt", "cpu"))._completed(onnx_model.path).provider_options == {}  # a float graph


def test_only_the_listed_providers_may_run_nodes() -> None:
    ran = (Ran("a", "Conv", "openvino", 1.0), Ran("b", "Det", "cpu", 1.0))
    Coverage(ran).require(Hybrid(providers=("openvino", "cpu")).providers)
    with pytest.raises(BackendError, match="not on OpenVINO, but on CPU ran Det"):
        Coverage(ran).require(Hybrid(providers=("openvino",)).providers)


def test_int8_is_written_as_the_first_provider_wants_it() -> None:
    assert Hybrid(providers=("tensorrt", "cuda")).profile() == TENSORRT
    assert Hybrid(providers=("openvino", "cpu")).profile(["avx2"]) == OpenvinoCpu().profile(["avx2"])
    assert Hybrid().profile(["asimd"]) == OnnxruntimeCpu().profile(["asimd"])
    assert Hybrid(providers=("cuda", "cpu")).profile() is None
