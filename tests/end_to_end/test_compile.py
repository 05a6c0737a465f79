"""The main job on a small network: what it prints, what it leaves, and that a second run finds everything stored."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.end_to_end.conftest import Job, write_network


def test_a_sound_job_passes_and_leaves_what_it_promises(job: Job) -> None:
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    assert ran.out.splitlines()[-1].startswith("PASS") or "PASS  cpu ships" in ran.out
    assert max(len(line) for line in ran.out.splitlines() if str(job.folder) not in line) <= 100
    report = json.loads((job.out / "report.json").read_text())
    target = report["targets"][0]
    assert (report["verdict"], report["exit_code"]) == ("pass", 0)
    assert target["winner"] in {"onnxruntime_cpu/fp32", "onnxruntime_cpu/int8"}
    assert all((job.out / name).is_file() for name in target["samples"])
    assert (job.out / "report.md").is_file()
    ElementTree.parse(job.out / "junit.xml")
    bundle = job.run("bundle", "verify", str(job.out / target["bundle"]))
    assert bundle.code == 0, bundle.err


def test_every_measurement_names_its_samples_machine_and_subject(done: Job) -> None:
    target = json.loads((done.out / "report.json").read_text())["targets"][0]
    for candidate in target["candidates"]:
        for one in candidate["measurements"]:
            assert one["subject"], one
            if one["metric"].startswith(("accuracy", "latency", "memory", "throughput")):
                assert (done.out / one["raw"]).is_file(), one
                assert one["environment"], one


def test_a_second_run_does_nothing_again_and_agrees(done: Job) -> None:
    before = json.loads((done.out / "report.json").read_text())
    again = done.compile()
    after = json.loads((done.out / "report.json").read_text())
    assert again.code == 0, again.err
    assert all(step["cached"] for step in after["steps"])
    assert before["targets"] == after["targets"]


def test_a_missed_budget_exits_with_1_and_ships_nothing(job: Job) -> None:
    job.edit("max_mb: 1.0", "max_mb: 0.001")
    ran = job.compile()
    assert ran.code == 1, ran.err
    assert not list(job.out.rglob("*.edgeopt"))
    assert (job.out / "cpu/onnxruntime_cpu/fp32/bundle/model/model.onnx").is_file()


def test_too_few_images_are_inconclusive_and_say_how_many_it_takes(job: Job) -> None:
    job.edit("{path: validation.npz}", "{path: validation.npz, samples: 300}")
    ran = job.compile()
    assert ran.code == 3, ran.err
    assert "300 images decide nothing, it takes" in " ".join(ran.out.split())


def test_a_simulated_backend_is_never_a_pass(job: Job) -> None:
    job.edit("[onnxruntime_cpu]", '["null"]')
    job.edit("      int8: [quantize_int8: {}]\n", "")
    ran = job.compile()
    assert ran.code == 3, ran.out + ran.err
    assert json.loads((job.out / "report.json").read_text())["verdict"] == "unmeasured"


def test_the_json_option_prints_the_report_alone(job: Job) -> None:
    ran = job.compile("--json")
    assert json.loads(ran.out) == json.loads((job.out / "report.json").read_text())


def test_gate_agrees_with_compile_and_refuses_a_changed_report(done: Job) -> None:
    assert done.run("gate", "out/report.json").code == 0
    path = done.out / "report.json"
    report = json.loads(path.read_text())
    report["targets"][0]["candidates"][0]["verdicts"][0]["verdict"] = "fail"
    path.write_text(json.dumps(report))
    ran = done.run("gate", "out/report.json")
    assert ran.code == 4, ran.out + ran.err
    assert "Traceback" not in ran.err


def test_cache_why_names_what_changed(job: Job) -> None:
    assert job.compile().code == 0
    assert "would not run again" in job.run("cache", "why", "quantize_int8 [int8]", "recipe.yaml").out
    write_network(job.folder / "model.onnx", scale=1.5)
    told = job.run("cache", "why", "load original", "recipe.yaml").out
    assert "file model.onnx changed" in told
    assert "step load original changed" in job.run("cache", "why", "quantize_int8 [int8]", "recipe.yaml").out


def test_a_set_override_makes_another_run(job: Job) -> None:
    job.edit("edgeopt: 1\n", "edgeopt: 1\nseed: 3\n")
    assert job.compile("--set", "seed=4").code == 0
    assert json.loads((job.out / "report.json").read_text())["seed"] == 4


@pytest.mark.parametrize("text", ["a", ""])
def test_a_folder_that_edgeopt_did_not_make_is_not_replaced(job: Job, text: str) -> None:
    job.out.mkdir()
    (job.out / "thesis.txt").write_text(text)
    ran = job.compile()
    assert ran.code == 2
    assert (job.out / "thesis.txt").read_text() == text


def test_a_signed_report_is_believed_and_a_later_run_is_not_mistaken_for_it(job: Job) -> None:
    assert job.run("keys", "new", "ci.key").code == 0
    ran = job.compile("--sign", "ci.key")
    assert ran.code == 0, ran.err
    asked = ("gate", "out", "--require-signed", "ci.key.pub")
    assert job.run(*asked).code == 0
    assert job.compile().code == 0, "an output folder with a signature is one of ours"
    ran = job.run(*asked)
    assert ran.code == 4
    assert "is not signed" in ran.err


def test_a_key_that_cannot_sign_is_found_out_before_anything_is_done(job: Job) -> None:
    ran = job.compile("--sign", "nowhere.key")
    assert ran.code == 2
    assert ran.err.startswith("error: there is no key `nowhere.key`")
    assert ran.out == ""
