"""A whole report explained: what is examined, in workers, and what is said where something is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeopt import environment, files
from edgeopt.errors import UsageError
from edgeopt.explain import Explanation
from edgeopt.explain.candidates import explain_report
from edgeopt.model import Model, OnnxValue, list_files, write_model
from edgeopt.onnx_graph import input_specs, output_specs, save_graph
from edgeopt.report import CandidateResult, Report, StepResult
from edgeopt.store import Store
from tests.explain.conftest import make_network, on_x86, quantize, spoil
from tests.report.conftest import CRASHED, SIMULATED, build_of, make_candidate, make_report, make_target, measure

FP32, INT8 = ("export_onnx",), ("export_onnx", "quantize_int8")

Explain = Callable[..., Explanation]


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explain:
    """Explains the candidates of a report in a folder of its own, with a store of its own."""
    monkeypatch.setattr(environment, "timing_lock", lambda: tmp_path / "timing.lock")

    def explain(*candidates: CandidateResult, steps: tuple[StepResult, ...] = (), **arguments: Any) -> Explanation:
        report = make_report(make_target(*candidates)).model_copy(update={"steps": steps})
        return explain_report(report, tmp_path, store=Store(tmp_path / "store"), **arguments)[0]

    return explain


def built(graph: onnx.ModelProto, folder: Path, passes: tuple[str, ...], speed: float = 2.0) -> CandidateResult:
    """A loser whose artifact lies where `compile` leaves it; `speed` is that against float, known to a tenth."""
    place = folder / "x86/onnxruntime_cpu/int8/build"
    files.write_bytes(place / "model.onnx", graph.SerializeToString())
    return make_candidate(
        "int8",
        artifact=build_of(*list_files(place, ["model.onnx"])),
        measurements=measure((1.0, 1.1), 1000, drop=(0.5, 0.1, 0.9), ratio_fp32=(speed, speed - 0.1, speed + 0.1)),
    ).model_copy(update={"passes": passes})


def stored(exact: onnx.ModelProto, folder: Path) -> tuple[StepResult, ...]:
    """The steps of a report, and in the store what they left: the float network, quantized, built."""
    store = Store(folder / "store")
    needs = {"quantize_int8 [int8]": "quantized", "export_onnx": "exported"}
    for key, step, need in (("exported", "export_onnx", ""), ("quantized", "quantize_int8 [int8]", "export_onnx"),
                            ("built", "build [x86/onnxruntime_cpu/int8]", "quantize_int8 [int8]")):  # fmt: skip
        with store.workspace() as place:
            save_graph(exact, place / "model.onnx")
            specs = {"inputs": input_specs(exact), "outputs": output_specs(exact)}
            write_model(Model(value=OnnxValue(), folder=place, **specs), place)
            store.put(key, step, {f"step {need}": needs[need]} if need else {}, {}, 1.0, place)
    return (StepResult(id="build [x86/onnxruntime_cpu/int8]", name="build", key="built", cached=False, seconds=1.0),)


@on_x86
def test_a_candidate_is_told_by_what_was_measured_its_time_and_its_noise(explain: Explain, tmp_path: Path) -> None:
    network = make_network((16, 16, 24, 24), size=16)
    odd = spoil(quantize(network, weight_dtype="uint8", weight_bits=8), "conv9")
    found = explain(built(odd, tmp_path, INT8, speed=0.9), steps=stored(network, tmp_path))
    assert found.measured == "0.90× as fast as float [0.80, 1.00] · drop 0.5 pp, at most 0.9 · unmeasured"
    assert "u8_weights" in {cause.name for cause in found.slow}
    assert found.run_ms is not None
    assert found.noise is not None
    assert {layer.layer for layer in found.noise.layers} >= {"conv0", "conv3", "head"}
    assert found.noise.inputs.startswith("16 random inputs")
    assert found.notes == (found.notes[0],)
    assert found.notes[0].startswith("profiled on "), "the report names no machine"


def test_a_spoilt_layer_is_the_first_to_blame(explain: Explain, tmp_path: Path) -> None:
    network = make_network((16, 16, 24, 24), size=16)
    found = explain(built(spoil(quantize(network), "conv2"), tmp_path, INT8), steps=stored(network, tmp_path))
    assert found.noise is not None
    assert found.noise.layers[0].layer == "conv2"
    assert [cause.edit for cause in found.inaccurate] == ["quantize_int8: {keep_float: [conv2]}"]


def test_an_unknown_cause_is_named_only_where_a_changed_network_is_not_faster(explain: Explain, tmp_path: Path) -> None:
    network, pruned = make_network(), ("prune_channels", *FP32)
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1  # what doubling it costs, only a clock can tell
    for speed, names in ((1.05, ["unknown"]), (2.0, [])):
        assert [cause.name for cause in explain(built(network, tmp_path, pruned, speed=speed)).slow] == names


def test_the_float_network_itself_is_called_so(explain: Explain, tmp_path: Path) -> None:
    found = explain(built(make_network((8,), size=8), tmp_path, FP32, speed=1.0))
    assert "unknown" not in {cause.name for cause in found.slow}
    assert "it is the float network itself, so that it is as fast as float" in found.notes
    assert found.noise is None


def test_an_artifact_that_is_gone_is_one_line_with_what_to_type(explain: Explain) -> None:
    gone = make_candidate("int8", artifact=build_of())
    for candidate in (gone, make_candidate("int8")):
        (note,) = explain(candidate).notes
        assert note.startswith("its artifact is neither beside the report nor in the store: `edgeopt compile ")


def test_a_float_network_that_is_gone_leaves_the_rest_told(explain: Explain, tmp_path: Path) -> None:
    found = explain(built(quantize(make_network((8,), size=8)), tmp_path, INT8))
    assert found.run_ms is not None
    assert found.noise is None
    assert found.notes[-1].startswith("the float network behind it is not in the store")


def test_a_file_that_the_runtime_refuses_is_told_and_nothing_breaks(explain: Explain, tmp_path: Path) -> None:
    network = make_network((8,), size=8)
    network.graph.node[0].op_type = "Frobnicate"
    assert "Frobnicate" in explain(built(network, tmp_path, FP32)).notes[-1]
    torn = built(make_network((8,), size=8), tmp_path, FP32)
    place = tmp_path / "x86/onnxruntime_cpu/int8/build"
    files.write_bytes(place / "model.onnx", b"torn")
    torn = torn.model_copy(update={"artifact": build_of(*list_files(place, ["model.onnx"]))})
    assert "does not parse as ONNX" in explain(torn).notes[-1]


def test_what_was_not_built_or_gives_no_profile_says_so(explain: Explain) -> None:
    assert explain(CRASHED).notes == ("it could not be built: `openvino_cpu` is not installed",)
    assert explain(CRASHED).measured == "speed against float not measured · not built"
    (note,) = explain(SIMULATED).notes
    assert note == "`null` gives no profile: only `onnxruntime_cpu` is examined"


def test_one_candidate_is_chosen_by_its_id(explain: Explain) -> None:
    assert explain(CRASHED, SIMULATED, candidate=SIMULATED.id).candidate == SIMULATED.id
    with pytest.raises(UsageError, match="no candidate `null/fp31`") as caught:
        explain(CRASHED, SIMULATED, candidate="null/fp31")
    assert caught.value.hint == "did you mean `null/fp32`?"


def test_the_machine_of_the_report_is_compared_with_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "timing_lock", lambda: tmp_path / "timing.lock")
    candidate, here = built(make_network((8,), size=8), tmp_path, FP32), environment.fingerprint()

    def notes(**changes: Any) -> list[str]:
        report = make_report(make_target(candidate)).model_copy(update={"environment": here | changes})
        found = explain_report(report, tmp_path, store=Store(tmp_path / "store"))
        return [note for note in found[0].notes if "profiled" in note]

    assert notes() == []
    assert notes(cpu="Cortex-A72") == [f"profiled on {environment.describe()}; the report was made on Cortex-A72"]
    cores = here["cores"]
    assert notes(cores=64) == [f"profiled with {cores} of its cores; the report was made with 64"]


def test_it_waits_while_something_else_is_timed_and_says_so(explain: Explain, tmp_path: Path) -> None:
    said: list[str] = []
    lock = files.lock(tmp_path / "timing.lock")
    lock.__enter__()

    def say(text: str) -> None:
        said.append(text)
        lock.__exit__(None, None, None)

    explain(built(make_network((8,), size=8), tmp_path, FP32), say=say)
    assert said == ["waiting: something else on this machine is being timed"]


def test_a_report_of_two_targets_is_told_by_target(tmp_path: Path) -> None:
    targets = make_target(CRASHED, name="x86"), make_target(CRASHED, name="arm")
    report: Report = make_report(*targets)
    found = explain_report(report, tmp_path, store=Store(tmp_path / "store"))
    assert [one.target for one in found] == ["x86", "arm"]
