"""The JSON Schema agrees with the loader: what it takes is sound, and what is misspelt it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from edgeopt import registry
from edgeopt.recipe.schema import make_schema
from tests.recipe.conftest import SOUND

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return make_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_it_is_a_json_schema_and_plain_json(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert make_schema() == schema, "the same each time"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_follows_it(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(read(path.read_text(encoding="utf8")))


def test_every_pass_is_in_it_with_all_its_options(schema: dict[str, Any]) -> None:
    entries = {entry["title"]: entry for entry in schema["$defs"]["PassStep"]["oneOf"]}
    assert set(entries) == set(registry.names("passes"))
    for name, entry in entries.items():
        options = entry["properties"][name]
        described = options.get("properties", {})
        assert set(described) == set(registry.resolve("passes", name).model_fields)
        assert options["additionalProperties"] is False
        assert all(option["description"] for option in described.values())


def test_every_backend_and_data_format_is_in_it(schema: dict[str, Any]) -> None:
    assert schema["$defs"]["BackendEntry"]["oneOf"][0]["enum"] == list(registry.names("backends"))
    assert schema["$defs"]["DataSection"]["properties"]["format"]["enum"] == list(registry.names("data"))


def test_every_definition_that_is_referred_to_is_there(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    referred = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert referred <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: small", "nmae: small"),
        ("name: small", "name: small\npath: x"),
        ("name: small", "name: ../small"),
        ("[cat, dog]", "[cat, cat]"),
        ("name: small", "name: small\nseed: -1"),
        ("edgeopt: 1", "edgeopt: 2"),
        ("weights: weights", "wieghts: weights"),
        ("{ratio: 0.5}", "{ratio: 1.5}"),
        ("{ratio: 0.5}", "{ratoi: 0.5}"),
        ("{ratio: 0.5}", ""),
        ("prune_channels", "prune_chanels"),
        ("- export_onnx: {}", "- export_onnx"),
        ("[onnxruntime_cpu]", "[onnxruntime_tpu]"),
        ("[onnxruntime_cpu]", "[]"),
        ("fp32: []", "fp32: {pases: []}"),
        ("fp32: []", "fp32: [unknown: {}]"),
        ("classes:", "format: npy\n  classes:"),
        ("max_drop_pp: 1.0", "max_drop_pp: -1"),
        ("max_drop_pp: 1.0", "max_drop: 1"),
        ("budgets:", "measure: {concurrency: 0}\nbudgets:"),
        ("max_drop_pp: 1.0", "class_floor: {cat: 90}"),
    ],
)
def test_what_the_loader_refuses_it_refuses_too(old: str, new: str, validator: jsonschema.Draft202012Validator) -> None:
    assert validator.is_valid(read(SOUND))
    assert old in SOUND
    assert not validator.is_valid(read(SOUND.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fp32: []", "fp32: {passes: [export_onnx: {}]}"),
        ("fp32: []", "fp32: [simplify_onnx: ]"),
        ("fp32: []", "fp32:"),
        ("classes:", "preprocess: {resize: [40, 40], crop: 32}\n  classes:"),
        ("name: x86", "name: x86\n    passes: [export_onnx: {}]\n    budgets: {latency: {p90_ms: 1}}"),
        ("name: x86", "name: x86\n    measure: {seconds: 60, minutes: 0.5, concurrency: 2}"),
    ],
)
def test_what_the_loader_takes_it_takes_too(old: str, new: str, validator: jsonschema.Draft202012Validator) -> None:
    assert old in SOUND
    validator.validate(read(SOUND.replace(old, new, 1)))


def test_making_it_leaves_the_models_as_they_were(schema: dict[str, Any]) -> None:
    before = copy.deepcopy(schema)
    schema["$defs"].clear()
    assert make_schema() == before
    schema.update(before)


def test_a_target_needs_a_name_and_may_leave_the_rest_to_edgeopt(schema: dict[str, Any]) -> None:
    assert schema["$defs"]["Target"]["required"] == ["name"]
