"""A target with a device: built, predicted and timed there, signed there, judged here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeopt.device import job as jobs
from edgeopt.errors import BuildError, DeviceError, EdgeoptError, RecipeError, TrustError, UsageError
from edgeopt.pipeline import run_plan
from edgeopt.plan import make_plan
from edgeopt.recipe import load_recipe
from edgeopt.remote import RemoteDevice
from edgeopt.report import Report
from edgeopt.store import Store
from edgeopt.transports import Pins
from tests.end_to_end.conftest import Job
from tests.end_to_end.test_torch_line import make_line
from tests.local_device import LocalTransport, make_device
from tests.sshd import Server, server

__all__ = ["server"]

TARGET = "  - name: cpu\n"
ON_A_DEVICE = "  - name: cpu\n    device: ssh://board\n"


@pytest.fixture
def device(tmp_path: Path) -> LocalTransport:
    return make_device(tmp_path / "device", board="bench")


@pytest.fixture
def compile_there(job: Job, device: LocalTransport) -> Callable[[], Report]:
    """Compiles the job for the device and gives the report."""
    aim_there(job)
    job.edit("  size: {max_mb: 1.0}", "  size: {max_mb: 1.0}\n  latency: {max_ratio: 3.0}")
    return lambda: run_there(job, device)


def aim_there(job: Job) -> None:
    job.edit(TARGET, ON_A_DEVICE)
    job.edit("budgets:", "inventory: fleet.yaml\nbudgets:")


def run_there(job: Job, device: LocalTransport) -> Report:
    remote, store = RemoteDevice("board", device), Store(job.folder / "store")
    plan = make_plan(load_recipe(str(job.recipe)), store, machines={"cpu": remote.environment})
    return run_plan(plan, store, out=job.out, devices={"cpu": remote})


@pytest.mark.slow
def test_a_target_is_built_and_measured_on_its_device_and_judged_here(
    compile_there: Callable[[], Report], job: Job, device: LocalTransport
) -> None:
    report = compile_there()
    (target,) = report.targets
    assert report.exit_code == 0
    assert target.machine.endswith("(board)")
    assert target.original is not None
    assert target.original.backend == "onnxruntime_cpu"
    found = {one.metric: one for one in target.candidates[0].measurements}
    assert found["latency.ratio"].high is not None
    assert found["accuracy.drop_pp"].samples == 600
    assert {"status", "measure"} == set(device.asked)
    asked = len(device.asked)
    compile_there()
    # builds and predictions were stored; golden samples are run again, and looks where the first run left it undecided
    assert len(device.asked) - asked < asked / 2
    gated = job.run("gate", "out")
    assert gated.code == 0, gated.err


@pytest.mark.slow
def test_compile_reaches_the_device_by_its_inventory_over_a_real_ssh_server(
    job: Job, server: Server, device: LocalTransport
) -> None:
    job.edit(TARGET, ON_A_DEVICE)
    job.edit("      int8: [quantize_int8: {}]\n", "")
    job.edit("budgets:", "inventory: fleet.yaml\nbudgets:")
    fleet = job.folder / "fleet.yaml"
    fleet.write_text(
        f"edgeopt_fleet: 1\ndevices:\n  board:\n    url: {server.address(device.home)}\n"
        f"    host_key: {server.host_key}\n    device_key: {device.pins.device_key}\n"
        f"    identity: {server.identity}\n    edgeopt: {server.pins.edgeopt}\n"
    )
    ran = job.compile()
    assert ran.code == 0, ran.err
    assert "(board)" in ran.out
    fleet.write_text(fleet.read_text().replace(str(device.pins.device_key), "ab" * 32))
    ran = job.compile()
    assert (ran.code, "is pinned" in ran.err) == (4, True), ran.err


@pytest.mark.slow
def test_long_runs_and_energy_are_measured_there_as_far_as_it_can(
    compile_there: Callable[[], Report], job: Job
) -> None:
    job.edit("      int8: [quantize_int8: {}]\n", "")
    job.edit("  size: {max_mb: 1.0}", "  size: {max_mb: 1.0}\n  energy: {max_mj: 1000}")
    job.edit("inventory:", "measure: {minutes: 0.02}\ninventory:")
    report = compile_there()
    (target,) = report.targets
    assert any(name.endswith("sustained.npz") for name in target.samples)
    assert any("energy was not measured: its device" in note for note in target.notes) or report.exit_code == 0
    gated = job.run("gate", "out")
    assert gated.code == report.exit_code, gated.err


@pytest.mark.slow
def test_passes_that_choose_by_time_go_by_the_devices_clock(tmp_path: Path, device: LocalTransport) -> None:
    (tmp_path / "line").mkdir()
    job = make_line(tmp_path / "line")
    aim_there(job)
    job.edit("prune_channels: {ratio: 0.25}", "prune_weights: {on: onnxruntime_cpu/int8}")
    job.edit("fine_tune: {epochs: 4}", "fine_tune: {epochs: 1}")
    report = run_there(job, device)
    (facts,) = (step.facts for step in report.steps if step.name == "prune_weights")
    assert "onnxruntime_cpu/int8 of board" in " ".join(map(str, facts.values()))


def test_a_device_times_what_it_is_sent_and_keeps_nothing_of_it(device: LocalTransport, job: Job) -> None:
    from edgeopt.model import Model, OnnxValue
    from edgeopt.onnx_graph import input_specs, load_graph, output_specs

    graph = load_graph(job.folder / "model.onnx")
    remote = RemoteDevice("board", device)
    model = Model(
        value=OnnxValue(), inputs=input_specs(graph), outputs=output_specs(graph), folder=job.folder
    )  # fmt: skip
    times = remote.time_models("onnxruntime_cpu", {}, [model, model], 1, 4)
    assert len(times) == 2
    assert all(ms > 0 for ms in times)
    assert list((device.home / "incoming").iterdir()) == []
    (job.folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BuildError, match="cannot run"):
        remote.time_models("onnxruntime_cpu", {}, [model], 1, 4)
    assert list((device.home / "incoming").iterdir()) == []


@pytest.mark.slow
def test_what_was_measured_by_another_key_is_refused(device: LocalTransport, tmp_path: Path) -> None:
    device.pins = make_device(tmp_path / "other").pins
    with pytest.raises(TrustError, match="is pinned"):
        RemoteDevice("board", device)


def test_a_device_whose_key_is_not_pinned_is_not_asked(device: LocalTransport) -> None:
    device.pins = Pins()
    with pytest.raises(UsageError, match="no key of `board` is pinned"):
        RemoteDevice("board", device)
    assert device.asked == []


def tamper(answer: dict[str, Any]) -> None:
    envelope = json.loads(answer["envelope"])
    envelope["payload"] = envelope["payload"][::-1]
    answer["envelope"] = json.dumps(envelope)


def replay(answer: dict[str, Any], kept: list[str]) -> None:
    kept.append(answer["envelope"])
    answer["envelope"] = kept[0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["tampered", "replayed", "other file"])
def test_an_answer_that_is_not_the_devices_own_to_this_question_is_refused(
    fault: str, compile_there: Callable[[], Report], device: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, get, kept = device.run, device.get, list[str]()

    def run_falsely(*arguments: str, seconds: float = 600.0) -> Any:
        answer = run(*arguments, seconds=seconds)
        if arguments[0] == "measure":
            if fault == "tampered":
                tamper(answer)
            if fault == "replayed":
                replay(answer, kept)
        return answer

    def get_falsely(name: str, path: Path) -> None:
        get(name, path)
        if fault == "other file":
            path.write_bytes(path.read_bytes() + b" ")

    monkeypatch.setattr(device, "run", run_falsely)
    monkeypatch.setattr(device, "get", get_falsely)
    said = {"tampered": "not signed with its key", "replayed": "another question", "other file": "not what it signed"}
    with pytest.raises(TrustError, match=said[fault]):
        compile_there()


def test_a_job_of_another_protocol_says_which_side_to_update(tmp_path: Path) -> None:
    for protocol, side in ((jobs.PROTOCOL + 1, "this device's"), (jobs.PROTOCOL - 1, "the host's")):
        path = tmp_path / "job.json"
        path.write_text(json.dumps({"protocol": protocol, "nonce": "0" * 32, "action": "build"}))
        with pytest.raises(DeviceError) as caught:
            jobs.load_job(path)
        assert side in caught.value.hint


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "a/../../b", ""])
def test_a_job_cannot_name_a_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    job = {"protocol": jobs.PROTOCOL, "nonce": "0" * 32, "action": "build", "files": {name: "0" * 64}}
    path.write_text(json.dumps(job))
    with pytest.raises(UsageError, match="names a file"):
        jobs.load_job(path)


def test_a_device_needs_an_inventory_that_pins_it(job: Job) -> None:
    job.edit(TARGET, ON_A_DEVICE)
    with pytest.raises(RecipeError, match="no inventory pins the keys of this device"):
        load_recipe(str(job.recipe))


def test_a_plan_whose_device_was_not_reached_does_not_run(job: Job) -> None:
    job.edit(TARGET, ON_A_DEVICE)
    job.edit("budgets:", "inventory: fleet.yaml\nbudgets:")
    store = Store(job.folder / "store")
    with pytest.raises(EdgeoptError, match="was not reached"):
        run_plan(make_plan(load_recipe(str(job.recipe)), store), store, out=job.out)
