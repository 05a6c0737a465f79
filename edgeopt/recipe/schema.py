"""The JSON Schema of the whole recipe, every pass and backend with its options, for editors and people."""

from __future__ import annotations

from typing import Any

from edgeopt import registry
from edgeopt.recipe.sections import HIDDEN, Recipe


def make_schema() -> dict[str, Any]:
    """The schema of a recipe with everything that is installed here."""
    schema = Recipe.model_json_schema(mode="validation")
    for hidden in HIDDEN:
        schema["properties"].pop(hidden)
    definitions = schema["$defs"]
    definitions["PassStep"] = {"oneOf": [_entry("passes", name, definitions) for name in registry.names("passes")]}
    definitions["Variant"] = _variant()
    target = definitions["Target"]["properties"]
    named = [_entry("backends", name, definitions) for name in registry.names("backends")]
    definitions["BackendEntry"] = {"oneOf": [{"enum": list(registry.names("backends"))}, *named]}
    target["variants"].pop("default", None)
    definitions["Target"]["required"].remove("backends")  # the target itself knows what to race
    definitions["DataSection"]["properties"]["format"]["enum"] = list(registry.names("data"))
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "edgeopt recipe", **_without(schema, "title")}


def _entry(kind: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    options = registry.resolve(kind, name).model_json_schema()
    definitions |= options.pop("$defs", {})
    kinds = "object" if options.get("required") else ["object", "null"]
    return {
        "type": "object",
        "title": name,
        "description": options.pop("description", ""),
        "properties": {name: {**_without(options, "title", "examples"), "type": kinds}},
        "required": [name],
        "additionalProperties": False,
    }


def _variant() -> dict[str, Any]:
    steps = {"type": "array", "items": {"$ref": "#/$defs/PassStep"}}
    replacing = {
        "type": "object", "properties": {"passes": steps}, "required": ["passes"], "additionalProperties": False
    }  # fmt: skip
    kinds = [steps, replacing, {"type": "null"}]
    return {"description": "Passes added to the shared ones, or in place of them.", "oneOf": kinds}


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}
