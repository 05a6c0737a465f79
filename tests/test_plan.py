"""What a plan is made of: shared steps once, keys that change with what they depend on, and nothing heavy or run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.errors import DataError, UsageError
from edgeopt.plan import Plan, make_plan, profile_of
from edgeopt.recipe import load_recipe
from edgeopt.store import Store
from tests.recipe.conftest import FILES, SOUND

MakePlan = Callable[..., Plan]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


@pytest.fixture
def plan_of(folder: Path) -> MakePlan:
    """The plan of the sound recipe with one text in place of another."""

    def plan_of(old: str = "", new: str = "", *overrides: str, text: str = SOUND) -> Plan:
        assert old in text
        (folder / "recipe.yaml").write_text(text.replace(old, new, 1) if old else text)
        return make_plan(load_recipe(folder / "recipe.yaml", overrides), Store(folder / "store"))

    return plan_of


def changed(before: Plan, after: Plan) -> set[str]:
    """The ids of the steps whose keys differ."""
    old = {step.id: step.key for step in before.steps}
    return {step.id for step in after.steps if old.get(step.id) != step.key}


def ids(plan: Plan) -> set[str]:
    return {step.id for step in plan.steps}


def test_a_step_comes_after_all_that_it_needs(plan_of: MakePlan) -> None:
    done = set[str]()
    for step in plan_of().steps:
        assert set(step.needs) <= done
        done.add(step.id)


def test_variants_share_the_steps_that_they_begin_with(plan_of: MakePlan) -> None:
    plan = plan_of()
    (target,) = plan.targets
    sides = {side.id: side for side in target.candidates}
    assert sides["onnxruntime_cpu/fp32"].steps == ("prune_channels", "export_onnx")
    assert sides["onnxruntime_cpu/int8"].steps == ("prune_channels", "export_onnx", "quantize_int8 [int8]")
    assert [step.id for step in plan.steps if step.name == "prune_channels"] == ["prune_channels"]
    assert len({step.key for step in plan.steps}) == len(plan.steps)


def test_the_references_are_planned_beside_the_candidates(plan_of: MakePlan) -> None:
    (target,) = plan_of().targets
    assert target.original.backend == "torch_eager"
    assert target.original.passes == ()
    assert target.floats["onnxruntime_cpu"].passes == ("export_onnx", "simplify_onnx")


def test_two_targets_that_want_the_same_share_all_but_builds(plan_of: MakePlan) -> None:
    one = plan_of()
    text = SOUND.replace("budgets:\n", "  - {name: arm, backends: [onnxruntime_cpu], variants: {fp32: []}}\nbudgets:\n")
    two = plan_of(text=text)
    assert not changed(one, two) & ids(one)
    assert all(name.startswith(("build [arm", "predict [arm", "time [arm")) for name in ids(two) - ids(one))


def test_only_the_named_target_is_planned(plan_of: MakePlan, folder: Path) -> None:
    plan_of("budgets:\n", "  - {name: arm, backends: [onnxruntime_cpu]}\nbudgets:\n")
    recipe = load_recipe(folder / "recipe.yaml")
    store = Store(folder / "store")
    assert [target.name for target in make_plan(recipe, store, ("arm",)).targets] == ["arm"]
    with pytest.raises(UsageError, match="no target `amr`") as caught:
        make_plan(recipe, store, ("amr",))
    assert caught.value.hint == "did you mean `arm`?"


def test_the_same_recipe_gives_the_same_keys_wherever_it_lies(plan_of: MakePlan, folder: Path, tmp_path: Path) -> None:
    here = plan_of()
    assert not changed(here, plan_of())
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in (*FILES, "recipe.yaml"):
        (there / name).write_bytes((folder / name).read_bytes())
    assert not changed(here, make_plan(load_recipe(there / "recipe.yaml"), Store(folder / "store")))


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        ("ratio: 0.5", "ratio: 0.6", {"prune_channels", "export_onnx", "quantize_int8 [int8]"}),
        ("quantize_int8: {}", "quantize_int8: {per_channel: false}", {"quantize_int8 [int8]"}),
        ("name: small", "name: other", set()),
        ("max_drop_pp: 1.0", "max_drop_pp: 2.0", set()),
        ("inputs:", "expect: {top1: 90}\n  inputs:", set()),
    ],
)
def test_a_change_of_the_recipe_touches_the_steps_that_depend_on_it(
    old: str, new: str, steps: set[str], plan_of: MakePlan
) -> None:
    before = plan_of()
    passes = {step.id for step in before.steps if step.action == "pass"}
    assert changed(before, plan_of(old, new)) & passes == steps


@pytest.mark.parametrize(
    ("old", "new", "step", "file"),
    [
        ("{ratio: 0.5}", "{ratio: 0.5, importance: fpgm}", "prune_channels", "pruning/importance/fpgm.py"),
        ("quantize_int8: {}", "quantize_int8: {method: mse}", "quantize_int8 [int8]", "calibrators/mse.py"),
        ("quantize_int8: {}", "quantize_int8: {effort: best}", "quantize_int8 [int8]", "calibrators/percentile.py"),
    ],
)
def test_the_code_of_what_options_name_is_part_of_the_key(
    old: str, new: str, step: str, file: str, plan_of: MakePlan
) -> None:
    before, after = (plan.step(step).parts for plan in (plan_of(), plan_of(old, new)))
    assert not [part for part in before if part.endswith(file)]
    assert [part for part in after if part.endswith(file)]


@pytest.mark.parametrize(("name", "value"), [("seconds", 60), ("minutes", 1), ("concurrency", 2)])
def test_another_way_of_measuring_touches_the_timing_alone(name: str, value: int, plan_of: MakePlan) -> None:
    before, after = plan_of(), plan_of("budgets:", f"measure: {{{name}: {value}}}\nbudgets:")
    assert changed(before, after) == {"time [x86]"}
    assert getattr(after.targets[0].measure, name) == value
    assert not changed(before, plan_of("budgets:", "measure: {seconds: 600, concurrency: 1}\nbudgets:"))


def test_another_seed_touches_every_pass_and_no_loading(plan_of: MakePlan) -> None:
    touched = changed(plan_of(), plan_of("", "", "seed=1"))
    assert {"prune_channels", "export_onnx", "quantize_int8 [int8]"} <= touched
    assert not touched & {"load original", "read data", "build [x86/original]"}


@pytest.mark.parametrize("name", ["weights.safetensors", "network.py"])
def test_another_network_touches_everything(name: str, plan_of: MakePlan, folder: Path) -> None:
    before = plan_of()
    (folder / name).write_text("# another\n")
    assert changed(before, plan_of()) == ids(before)


def test_a_file_that_the_network_imports_is_part_of_it(plan_of: MakePlan, folder: Path) -> None:
    (folder / "network.py").write_text("from blocks import Block\n")
    (folder / "blocks.py").write_text("")
    before = plan_of()
    (folder / "blocks.py").write_text("# another\n")
    assert "load original" in changed(before, plan_of())


@pytest.mark.parametrize("name", ["training.npz", "calibration.npz"])
def test_other_images_touch_what_reads_them_even_where_it_could_do_without(
    name: str, plan_of: MakePlan, folder: Path
) -> None:
    before = plan_of()
    (folder / name).write_text("other images")
    touched = changed(before, plan_of())
    assert {"read data", "prune_channels", "quantize_int8 [int8]", "predict [x86/original]"} <= touched
    assert not touched & {"load original", "build [x86/original]", "export_onnx [float]"}


def test_a_network_that_cannot_be_parsed_stops_no_plan(plan_of: MakePlan, folder: Path) -> None:
    (folder / "network.py").write_text("def (")
    assert "load original" in ids(plan_of())


def test_a_split_that_names_no_callable_is_an_error_that_says_so(plan_of: MakePlan) -> None:
    with pytest.raises(DataError, match="names no callable"):
        plan_of("classes:", "format: python\n  classes:")


PLANNING = """
import sys
from edgeopt.cli import main
sys.argv = ["edgeopt", "plan", "recipe.yaml"]
try:
    main()
finally:
    print(sorted({"torch", "onnx", "onnxruntime", "scipy"} & set(sys.modules)))
"""


def test_a_plan_runs_no_user_code_and_loads_no_torch(plan_of: MakePlan, folder: Path) -> None:
    plan_of()
    canary = folder / "canary"
    (folder / "network.py").write_text(f"open({str(canary)!r}, 'w')\n")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environ = os.environ | {"EDGEOPT_CACHE": str(folder / "store"), "PYTHONPATH": path}
    command = [sys.executable, "-c", PLANNING]
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert not canary.exists()


def test_a_declared_cpu_changes_the_profile_and_the_build(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "recipes" / "digits.yaml"
    plans = [
        make_plan(load_recipe(recipe, [f"targets.0.isa={isa}"]), Store(tmp_path / "store"))
        for isa in ("[avx2]", "[avx512_vnni]")
    ]
    for step in ("quantize_int8 [int8]", "build [x86/onnxruntime_cpu/int8]"):
        first, second = (plan.step(step) for plan in plans)
        assert first.key != second.key
    profiles = [profile_of(plan.step("quantize_int8 [int8]")) for plan in plans]
    assert [profile and profile.weight_bits for profile in profiles] == [7, 8]
    assert plans[0].targets[0].isa == ("avx2",)


GPU = {"name": "Orin", "driver": "580.65", "compute_capability": "8.7", "power": "unknown"}


@pytest.mark.parametrize(
    ("backends", "gpus", "device"),
    [
        ("[tensorrt]", (GPU,), "cuda"),
        ("[tensorrt, onnxruntime_cuda]", (GPU,), "cuda"),
        ("[tensorrt]", (), None),
        ("[tensorrt, onnxruntime_cpu]", (GPU,), None),
        ("[onnxruntime_cpu]", (GPU,), None),
    ],
)
def test_the_original_runs_on_the_gpu_where_all_that_is_raced_does(
    plan_of: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
    backends: str,
    gpus: tuple[dict[str, str], ...],
    device: str | None,
) -> None:
    monkeypatch.setattr("edgeopt.environment.gpus", lambda: gpus)
    plan = plan_of(text=SOUND.replace("[onnxruntime_cpu]", backends).replace("      int8: [quantize_int8: {}]\n", ""))
    build = plan.step(plan.targets[0].original.build)
    assert (build.name, build.options["options"].get("device")) == ("torch_eager", device)


@pytest.mark.parametrize(
    ("on", "half", "quantized"), [("fp32", False, False), ("fp16", True, False), ("int8", True, True)]
)
def test_a_pass_is_timed_at_the_precision_of_the_candidate_that_it_names(
    on: str, half: bool, quantized: bool, plan_of: MakePlan
) -> None:
    text = SOUND.replace("{ratio: 0.5}", f"{{goal: {{latency: 0.5}}, on: tensorrt/{on}}}")
    text = text.replace("[onnxruntime_cpu]", "[tensorrt]").replace("{}]", "{}, cast_fp16: {}]")
    text = text.replace("      fp32: []\n", "      fp32: []\n      fp16: [cast_fp16: {}]\n")
    step = plan_of(text=text).step("prune_channels")
    assert step.options["half"] == half
    assert (profile_of(step) is not None) == quantized


def test_a_pass_that_goes_by_the_clock_of_a_device_is_run_again_for_another_device(folder: Path) -> None:
    text = SOUND.replace("{ratio: 0.5}", "{goal: {latency: 0.5}, on: onnxruntime_cpu/int8}")
    text = text.replace("budgets:", "inventory: fleet.yaml\nbudgets:")
    (folder / "recipe.yaml").write_text(text.replace("- name: x86\n", "- name: x86\n    device: ssh://board\n"))
    pinned = f"url: ssh://me@board/app, device_key: {'ab' * 32}"
    (folder / "fleet.yaml").write_text(f"edgeopt_fleet: 1\ndevices:\n  board: {{{pinned}}}\n")
    recipe, store = load_recipe(folder / "recipe.yaml"), Store(folder / "store")
    keys = [
        make_plan(recipe, store, machines={"x86": {"cpu": cpu, "isa": ["asimd"]}}).step("prune_channels").key
        for cpu in ("Cortex-A76", "Cortex-A53", "Cortex-A76")
    ]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(("backend", "told_apart"), [("tensorrt", True), ("onnxruntime_cpu", False)])
def test_a_pass_that_goes_by_the_clock_of_a_gpu_is_run_again_for_another_gpu(
    backend: str, told_apart: bool, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SOUND.replace("{ratio: 0.5}", f"{{goal: {{latency: 0.5}}, on: {backend}/int8}}")
    keys = set()
    for name in ("Orin", "H100"):
        monkeypatch.setattr("edgeopt.environment.gpus", lambda name=name: (GPU | {"name": name},))
        keys.add(plan_of(text=text.replace("[onnxruntime_cpu]", f"[{backend}]")).step("prune_channels").key)
    assert len(keys) == 1 + told_apart


def test_a_target_that_is_built_several_times_has_a_side_for_each(plan_of: MakePlan) -> None:
    (target,) = plan_of("backends: [onnxruntime_cpu]", "backends: [onnxruntime_cpu]\n    builds: 3").targets
    assert {name: [side.id for side in sides] for name, sides in target.rebuilds.items()} == {
        name: [f"{name} #2", f"{name} #3"] for name in ("onnxruntime_cpu/fp32", "onnxruntime_cpu/int8")
    }
    assert len({side.build for side in target.sides()}) == len(target.sides())


def test_tuned_candidates_are_predicted_and_timed_as_they_were_tuned(plan_of: MakePlan) -> None:
    plan = plan_of("backends: [onnxruntime_cpu]", "backends: [onnxruntime_cpu]\n    tune: true")
    (target,) = plan.targets
    assert {plan.step(side.build).action for side in target.candidates} == {"tune"}
    assert plan.step(target.original.build).action == "build"
    assert all(side.build in plan.step(target.time).needs for side in target.candidates)
