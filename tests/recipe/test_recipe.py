"""A sound recipe loads; every kind of fault in it is told at its place, with what to write instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.errors import RecipeError, UsageError
from edgeopt.recipe import Budgets, effective_budgets, load_recipe
from tests.recipe.conftest import SOUND

RECIPES = Path(__file__).parents[2] / "recipes"

Write = Callable[..., Path]
FaultsOf = Callable[..., list[str]]


def test_a_sound_recipe_loads_with_paths_beside_it(write: Write, folder: Path) -> None:
    recipe = load_recipe(write())
    assert (recipe.name, recipe.seed, recipe.path) == ("small", 0, folder / "recipe.yaml")
    assert recipe.model.weights == folder / "weights.safetensors"
    assert recipe.text == SOUND
    target = recipe.targets[0]
    assert [step.name for step in recipe.passes_of(target, "fp32")] == ["prune_channels", "export_onnx"]
    assert [step.name for step in recipe.passes_of(target, "int8")][-1] == "quantize_int8"


def test_the_recipe_of_the_main_job_loads() -> None:
    recipe = load_recipe(RECIPES / "digits.yaml")
    assert recipe.model.weights is not None
    assert recipe.model.weights.is_file()
    assert set(recipe.targets[0].variants) == {"fp32", "int8"}


def test_overrides_are_laid_over_the_text(write: Write) -> None:
    recipe = load_recipe(write(), ["seed=7", "passes.0.prune_channels.ratio=0.25", "budgets.latency.max_ratio=0.5"])
    assert recipe.seed == 7
    assert recipe.passes[0].options == {"ratio": 0.25}
    assert recipe.budgets.latency is not None
    assert recipe.budgets.latency.max_ratio == 0.5


def test_a_variant_can_stand_in_place_of_the_shared_passes(write: Write) -> None:
    recipe = load_recipe(write("fp32: []", "fp32: {passes: [export_onnx: {}]}"))
    assert [step.name for step in recipe.passes_of(recipe.targets[0], "fp32")] == ["export_onnx"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: small", "nmae: small", ["1:1: missing key `name`", "2:1: unknown key `nmae`; did you mean `name`?"]),
        ("weights: weights", "wieghts: weights", ["unknown key `wieghts`; did you mean `weights`?"]),
        ("{path: validation", "{pth: validation", ["missing key `path`", "unknown key `pth`; did you mean `path`?"]),
        ("classes:", "path: x\n  classes:", ["8:3: unknown key `path`"]),
        ("name: small", "name: small\npath: x", ["3:1: unknown key `path`"]),
        ("name: small", "name: 5", ['2:7: `name` should be a valid string, found `5`; put it in quotes']),
        ("name: small", "name: ../small", ["2:7: `name` should be letters, digits"]),
        ("name: small", 'name: "\\ud800"', ["2:7: the character U+D800 is not allowed"]),
        ("name: small", 'name: small\n"\\e[2J": 1', ["3:1: the character U+001B is not allowed"]),
        ("name: small", "name: small\nseed: -1", ["3:7: `seed` should be greater than or equal to 0, found `-1`"]),
        ("name: small", "name: small\nseed: true", ["3:7: `seed` should be a valid integer, found `true`"]),
        ("edgeopt: 1", "edgeopt: 2", ["1:10: `edgeopt` should be 1, found `2`"]),
        (
            "[1, 8, 8]", "[1, 0, x]",
            ["6:31: `shape[1]` should be", '6:34: `shape[2]` should be a valid integer, found `"x"`'],
        ),
        ("[cat, dog]", "[cat, 1]", ["8:18: `classes[1]` should be a valid string, found `1`; put it in quotes"]),
        ("[cat, dog]", "[cat, cat]", ["8:12: `classes` should name each once, and `cat` is there twice"]),
        ("[cat, dog]", "[cat]", ["8:12: `classes` should have at least 2 items"]),
        (
            "{max_drop_pp: 1.0}", "{max_drop_pp: 1 %}",
            ['`max_drop_pp` should be a valid number, found `"1 %"`'],
        ),
        (
            "accuracy: {max_drop_pp: 1.0}", "latency: {max_ratio: 95}",
            ["`max_ratio` should be less than or equal to 10, found `95`"],
        ),
        (
            "accuracy: {max_drop_pp: 1.0}", "size: {max_mb: 420000}",
            ["`max_mb` should be less than or equal to 100000, found `420000`"],
        ),
        ("name: x86", "name: x86\n    isa: [avx3]", ["`isa[0]` should be one of avx2"]),
        ("{ratio: 0.5}", "{ratio: 1.5}", ["13:29: `ratio` should be less than 1, found `1.5`"]),
        ("{ratio: 0.5}", "{ratoi: 0.5}", ["unknown key `ratoi`; did you mean `ratio`?"]),
        (
            "{ratio: 0.5}", "{goal: {latency: 0.5}}",
            ["13:21: target `x86` has several candidates, and `on` names none; known: "],
        ),
        (
            "{ratio: 0.5}", "{goal: {latency: 0.5}, on: onnxruntime_cpu/int4}",
            ["13:21: target `x86` has no candidate `onnxruntime_cpu/int4`; did you mean `onnxruntime_cpu/int8`?"],
        ),
        (
            "{ratio: 0.5}", "{goal: {latency: 0.5, macs: 0.5}}",
            ["should be one of latency, latency_ms, macs, parameters, bytes"],
        ),
        ("{ratio: 0.5}", "0.5", ["13:5: the options of `prune_channels` should be a mapping"]),
        (
            "prune_channels: {ratio: 0.5}", "prune_channel: {}",
            ["13:5: unknown pass `prune_channel`; did you mean `prune_channels`?"],
        ),
        ("- export_onnx: {}", "- export_onnx", ['14:5: `passes[1]` should be one pass with its options']),
        (
            "[onnxruntime_cpu]", "[onnxruntime_gpu]",
            ["17:16: unknown backend `onnxruntime_gpu`; did you mean `onnxruntime_cpu`?"],
        ),
        ("[onnxruntime_cpu]", "[null_, onnxruntime_cpu]", ["17:16: unknown backend `null_`"]),
        ("[onnxruntime_cpu]", "[onnxruntime_cpu, onnxruntime_cpu]", ["17:15: `backends` should name each once"]),
        (
            "[onnxruntime_cpu]", "[onnxruntime_cpu, {onnxruntime_cpu: {}}]",
            ["17:15: `backends` should name each once"],
        ),
        ("[onnxruntime_cpu]", "[{onnxruntime_cpu: {speed: 9}}]", ["17:35: unknown key `speed`"]),
        (
            "[onnxruntime_cpu]", "[{tensorrt: {batches: [4, 2, 8]}}]",
            ["17:37: `batches` should rise: the smallest, the usual and the largest size"],
        ),
        ("[onnxruntime_cpu]", "[{onnxruntime_cpi: {}}]", ["17:17: unknown backend `onnxruntime_cpi`"]),
        ("[onnxruntime_cpu]", "[{onnxruntime_cpu: 3}]", ["17:16: the options of `onnxruntime_cpu` should be a"]),
        ("[onnxruntime_cpu]", "[{null: {}, onnxruntime_cpu: {}}]", ["should be the name of a backend"]),
        ("[onnxruntime_cpu]", "[]", ["17:15: `backends` should have at least 1 item"]),
        ("int8: [", "in/t8: [", ["20:7: `in/t8` should be letters, digits"]),
        ("fp32: []", "fp32: {pases: []}", ["19:13: `fp32` should be a list of passes, or `{passes: [...]}`"]),
        ("classes:", "format: npy\n  classes:", ["8:11: unknown data format `npy`; did you mean `npz`?"]),
        (
            "classes:", "preprocess: {resize: big}\n  classes:",
            ["8:24: `resize` should be a valid integer", "[height, width]"],
        ),
        ("classes:", "preprocess: {std: [0.5, 0]}\n  classes:", ["8:27: `std[1]` should not be 0, found `0`"]),
        (
            "classes:", "preprocess: {channels: rbg}\n  classes:",
            ['8:26: `channels` should be `rgb`, `bgr` or `gray`, found `"rbg"`'],
        ),
        ("weights: weights.safetensors", "weights: wieghts.safetensors", ["5:12: there is no `wieghts.safetensors`"]),
        ("weights: weights.safetensors", "weights: .", ["5:12: `", "` is a folder, not a file"]),
        ("weights: weights.safetensors", 'weights: ""', ["5:12: `weights` should be a path"]),
        ("weights: weights.safetensors", "weights: " + "w" * 300, ["5:12: there is no `www"]),
        ("network.py:Net", "netwrok.py:Net", ["4:12: there is no `netwrok.py`"]),
        ("network.py:Net", "network.Net", ["4:3: `factory` should be `path/to/file.py:callable`"]),
        ("  factory: network.py:Net\n", "", ["4:3: `model` needs `factory` or `onnx`, and not both"]),
        ("model:", "model:\n  onnx: model.onnx", ["4:3: `model` needs `factory` or `onnx`, and not both"]),
        ("  weights: weights.safetensors\n", "", ["4:3: `factory` needs `weights` and `inputs` beside it"]),
        ("validation.npz", "${EDGEOPT_NOT_SET}/x", ["10:23: not valid YAML", "between quotes"]),
        (
            "validation.npz", '"${EDGEOPT_NOT_SET}/x"',
            ["10:22: the environment variable `EDGEOPT_NOT_SET` is not set"],
        ),
        (
            "budgets:", "measure: {seconds: 0, minutes: 2000}\nbudgets:",
            [
                "21:20: `seconds` should be greater than 0, found `0`",
                "21:32: `minutes` should be less than or equal to 1440, found `2000`",
            ],
        ),
        (
            "budgets:", "measure: {concurrency: 0, second: 1}\nbudgets:",
            [
                "21:24: `concurrency` should be greater than or equal to 1, found `0`",
                "21:27: unknown key `second`; did you mean `seconds`?",
            ],
        ),
        ("budgets:", "measure: {seconds: .nan}\nbudgets:", ["21:20: "]),
        ("name: x86", "name: x86\n    measure: {seconds: 60 s}", ['17:24: `seconds` should be a valid number']),
        ("name: x86", "name: x86\n    device: ssh://orin", ["17:13: no inventory pins the keys of this device"]),
        (
            "  - export_onnx: {}\n", "",
            ["`onnxruntime_cpu` takes a model in onnx form, and variant `fp32` ends in torch form"],
        ),
        (
            "[quantize_int8: {}]", "[prune_channels: {ratio: 0.5}]",
            ["20:30: `prune_channels` takes a model in torch form"],
        ),
        ("  calibration: {path: calibration.npz}\n", "", ["`quantize_int8` needs `data.calibration`"]),
        (
            "max_drop_pp: 1.0", "max_drop_pp: -1",
            ["22:27: `max_drop_pp` should be greater than or equal to 0, found `-1`"],
        ),
        ("max_drop_pp: 1.0", "max_drop_pp: .nan", ["22:27: `.nan` is not a finite number"]),
        ("max_drop_pp: 1.0", "max_drop_pp: '1'", ["22:27: `max_drop_pp` should be a valid number"]),
        ("max_drop_pp: 1.0", "confidence: 0.9", ["22:3: `accuracy` sets no limit"]),
        ("accuracy: {max_drop_pp: 1.0}", "accuracy:", ["22:3: `accuracy` has no value"]),
        (
            "max_drop_pp: 1.0", "max_drop_pp: 1.0, class_floor: {cow: 0.5}",
            ["22:46: there is no class `cow`; known: cat, dog"],
        ),
        (
            "max_drop_pp: 1.0", "class_floor: {cat: 90}",
            ["22:33: `cat` should be less than or equal to 1, found `90`"],
        ),
        ("accuracy:", "size: {}\n  accuracy:", ["22:9: missing key `max_mb`"]),
    ],
)  # fmt: skip
def test_each_fault_is_told_at_its_place(
    old: str, new: str, expected: list[str], write: Write, faults_of: FaultsOf
) -> None:
    found = "\n".join(faults_of(write(old, new)))
    for words in expected:
        assert words in found
    assert len(found.splitlines()) <= 2, "what follows from a fault is not a fault of its own"


def test_all_faults_are_told_at_once_in_the_order_of_the_text(write: Write, faults_of: FaultsOf) -> None:
    text = (
        SOUND.replace("name: small", "name: 5\nnonsense: 1").replace("weights.s", "missing.s").replace("0.5", "7")
        .replace("[onnxruntime_cpu]", "[tpu]").replace("max_drop_pp: 1.0", "max_drop_pp: .inf")
    )  # fmt: skip
    found = faults_of(write(text=text))
    assert [line.split(" ")[0] for line in found] == ["2:7:", "3:1:", "6:12:", "14:29:", "18:16:", "23:27:"]


def test_a_wrong_pass_does_not_hide_a_missing_file_or_a_loosened_budget(write: Write, faults_of: FaultsOf) -> None:
    text = SOUND.replace("ratio: 0.5", "ratio: 5").replace("training.npz", "nowhere.npz")
    text = text.replace("name: x86", "name: x86\n    budgets: {accuracy: {max_drop_pp: 2.0}}")
    assert [line.split(" ")[0] for line in faults_of(write(text=text))] == ["11:20:", "13:29:", "17:39:"]


def test_an_onnx_file_can_be_neither_pruned_nor_fine_tuned(write: Write, faults_of: FaultsOf) -> None:
    start = SOUND.index("  factory")
    text = SOUND[:start] + "  onnx: model.onnx\n" + SOUND[SOUND.index("data:") :]
    (fault,) = faults_of(write(text=text))
    assert "`prune_channels` takes a model in torch form, and here it is in onnx form" in fault
    assert "can be neither pruned nor fine-tuned" in fault
    assert fault.startswith("11:21: "), "at the pass, and once, however many variants share it"


def test_what_a_backend_cannot_express_is_told_at_the_pass(
    write: Write, faults_of: FaultsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = faults_of(write("quantize_int8: {}", "quantize_int8: {zero_shift: true}"))
    assert "`zero_shift` is for targets without zero points, and `onnxruntime_cpu/" in fault
    assert fault.startswith("20:29: ")
    monkeypatch.setattr(OnnxruntimeCpu, "profile", lambda self, isa=None: None)
    (fault,) = faults_of(write())
    assert fault.startswith("17:16: `onnxruntime_cpu` runs no integers, and variant `int8` has `quantize_int8`; ")


def test_a_wrong_option_is_told_once_and_not_asked_for_its_profile(write: Write, faults_of: FaultsOf) -> None:
    (fault,) = faults_of(write("quantize_int8: {}", "quantize_int8: {effort: nonsense, zero_shift: true}"))
    assert "`effort` should be" in fault


def test_two_targets_of_one_name_are_refused(write: Write, faults_of: FaultsOf) -> None:
    second = "  - {name: x86, backends: [onnxruntime_cpu]}\nbudgets:"
    assert faults_of(write("budgets:", second)) == ["21:12: two targets are called `x86`"]


@pytest.mark.parametrize(
    ("shared", "own", "loosened"),
    [
        ("accuracy: {max_drop_pp: 1.0}", "accuracy: {max_drop_pp: 1.5}", "1.5 against 1"),
        ("accuracy: {max_drop_pp: 1.0}", "accuracy: {confidence: 0.9}", "0.9 against 0.95"),
        ("throughput: {min_per_s: 100}", "throughput: {min_per_s: 50}", "50 against 100"),
        ("latency: {p90_ms: 2}", "latency: {p90_ms: 3}", "3 against 2"),
        ("accuracy: {class_floor: {cat: 0.9}}", "accuracy: {class_floor: {cat: 0.8}}", "0.8 against 0.9"),
        ("accuracy: {max_drop_pp: 1.0}", "accuracy: {max_drop_pp: 0.5, confidence: 0.99}", ""),
        ("latency: {p90_ms: 2}", "latency: {p50_ms: 3}", ""),
        ("accuracy: {class_floor: {cat: 0.9}}", "accuracy: {class_floor: {cat: 0.95, dog: 0.1}}", ""),
    ],
)
def test_a_target_may_tighten_a_budget_and_not_loosen_it(
    shared: str, own: str, loosened: str, write: Write, faults_of: FaultsOf
) -> None:
    text = SOUND.replace("accuracy: {max_drop_pp: 1.0}", shared)
    path = write("name: x86", f"name: x86\n    budgets: {{{own}}}", text=text)
    if not loosened:
        load_recipe(path)
        return
    (fault,) = faults_of(path)
    assert fault.startswith("17:")
    assert fault.endswith(f"a target may tighten a budget, not loosen it: {loosened}")


def test_a_targets_own_budgets_are_laid_over_the_shared_ones() -> None:
    shared = Budgets.model_validate(
        {"accuracy": {"max_drop_pp": 1, "confidence": 0.9, "class_floor": {"8": 0.9}}, "size": {"max_mb": 2}}
    )
    own = Budgets.model_validate(
        {"accuracy": {"max_drop_pp": 0.5, "class_floor": {"3": 0.8}}, "latency": {"p50_ms": 1}}
    )
    merged = effective_budgets(shared, own)
    assert merged.accuracy is not None
    assert merged.accuracy.max_drop_pp == 0.5
    assert merged.accuracy.confidence == 0.9, "a default of the target's own does not undo what is shared"
    assert merged.accuracy.class_floor == {"8": 0.9, "3": 0.8}, "no floor is lost"
    assert merged.size is not None
    assert merged.latency is not None


def test_how_a_target_is_measured_is_what_it_sets_itself_over_the_shared_values(write: Write) -> None:
    text = SOUND.replace("budgets:", "measure: {seconds: 60, minutes: 2, concurrency: 4}\nbudgets:")
    recipe = load_recipe(write("name: x86", "name: x86\n    measure: {seconds: 90, minutes: null}", text=text))
    measure = recipe.measure_of(recipe.targets[0])
    assert (measure.seconds, measure.minutes, measure.concurrency) == (90, None, 4)
    plain = load_recipe(write())
    measure = plain.measure_of(plain.targets[0])
    assert (measure.seconds, measure.minutes, measure.concurrency) == (600, None, 1)


def test_the_python_format_names_a_callable_after_its_file(write: Write, faults_of: FaultsOf, folder: Path) -> None:
    text = SOUND.replace("classes: [cat, dog]", "format: python\n  classes: [cat, dog]").replace(".npz", ".py:samples")
    assert faults_of(write(text=text)) == [
        f"{line}: there is no `{name}.py`; paths are relative to the recipe"
        for line, name in (("10:23", "calibration"), ("11:22", "validation"), ("12:20", "training"))
    ]
    for name in ("calibration", "validation", "training"):
        (folder / f"{name}.py").touch()
    assert load_recipe(write(text=text)).data.validation.path == folder / "validation.py:samples"


def test_a_variable_in_a_path_is_replaced_and_nowhere_else(
    write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_DATA", str(folder))
    recipe = load_recipe(write("validation.npz", '"${EDGEOPT_DATA}/validation.npz"'))
    assert recipe.data.validation.path == folder / "validation.npz"
    recipe = load_recipe(write("weights: weights", "options: {text: '${EDGEOPT_DATA}'}\n  weights: weights"))
    assert recipe.model.options == {"text": "${EDGEOPT_DATA}"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=x", '--set seed=x: `seed` should be a valid integer, found `"x"`'),
        ("sede=1", "--set sede=1: unknown key `sede`; did you mean `seed`?"),
        (
            "budgets.latency.max_rato=1",
            "--set budgets.latency.max_rato=1: unknown key `max_rato`; did you mean `max_ratio`?",
        ),
        ("targets.1.batch=2", "--set targets.1.batch=2: the recipe has no such place"),
        ("targets.0.batch=0", "--set targets.0.batch=0: `batch` should be greater than or equal to 1, found `0`"),
        (
            "passes.0.prune_channels.ratio=2",
            "--set passes.0.prune_channels.ratio=2: `ratio` should be less than 1, found `2`",
        ),
        (
            "data.training.path=x.npz",
            "--set data.training.path=x.npz: there is no `x.npz`; paths are relative to the recipe",
        ),
        ("model=", "--set model=: `model` should be a mapping, found `null`"),
        ("seed", "--set seed: not of the form KEY=VALUE; for example `--set seed=3`"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_by_its_own_words(
    override: str, expected: str, write: Write, faults_of: FaultsOf
) -> None:
    assert faults_of(write(), override) == [expected]


def test_an_override_can_mend_a_wrong_value(write: Write) -> None:
    assert load_recipe(write("name: small", "name: small\nseed: wrong"), ["seed=3"]).seed == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "hello\n", "- a\n- b\n", "5\n"])
def test_a_text_that_is_no_mapping_is_one_fault(text: str, write: Write, faults_of: FaultsOf) -> None:
    assert faults_of(write(text=text)) == ["1:1: a recipe is a mapping that begins with `edgeopt: 1`"]


def test_what_is_no_text_or_too_large_or_not_there_is_told_without_reading_it_all(folder: Path) -> None:
    binary, large = folder / "binary.yaml", folder / "large.yaml"
    binary.write_bytes(b"name: \xff\xfe\n")
    with large.open("wb") as stream:
        stream.truncate(1 << 40)  # a terabyte, if anybody reads it
    with pytest.raises(RecipeError, match="1:1: not UTF-8 text: invalid start byte at byte 6"):
        load_recipe(binary)
    with pytest.raises(RecipeError, match="1:1: larger than 256 kB"):
        load_recipe(large)
    with pytest.raises(UsageError, match=r"cannot read the recipe .*: no such file or directory"):
        load_recipe(folder / "nowhere.yaml")
    with pytest.raises(UsageError, match="is a directory"):
        load_recipe(folder)


PIECES = ["", "{", "]", "5", "null", "[]", "{}", "- ", "\n", "\n  ", ": ", "${X}", "'", "ß"]


@given(start=st.integers(0, len(SOUND)), length=st.integers(0, 12), piece=st.sampled_from(PIECES))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_with_a_piece_of_it_broken_loads_or_is_refused(
    start: int, length: int, piece: str, folder: Path
) -> None:
    path = folder / "recipe.yaml"
    path.write_text(SOUND[:start] + piece + SOUND[start + length :], encoding="utf8")
    with contextlib.suppress(UsageError):
        assert load_recipe(path).edgeopt == 1


def test_backends_take_options_as_passes_do(write: Write) -> None:
    first, second = load_recipe(write("[onnxruntime_cpu]", "[{onnxruntime_cpu: {}}, openvino_cpu]")).targets[0].backends
    assert (first.name, first.options, second.name) == ("onnxruntime_cpu", {}, "openvino_cpu")


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        ("[avx2, avx512_vnni]", ["onnxruntime_cpu", "openvino_cpu"]),
        ("[asimd, asimddp]", ["onnxruntime_cpu"]),
    ],
)
def test_where_no_backend_is_named_those_of_the_cpu_race(write: Write, isa: str, expected: list[str]) -> None:
    recipe = load_recipe(write("    backends: [onnxruntime_cpu]\n", f"    isa: {isa}\n"))
    assert [entry.name for entry in recipe.targets[0].backends] == expected


def test_faults_about_backends_that_are_not_named_are_told_at_the_target(write: Write, faults_of: FaultsOf) -> None:
    text = SOUND.replace("    backends: [onnxruntime_cpu]\n", "").replace("  - export_onnx: {}\n", "")
    (first, *_) = faults_of(write(text=text))
    assert "`onnxruntime_cpu` takes a model in onnx form" in first
    assert first.startswith(f"{text.splitlines().index('  - name: x86') + 1}:")
