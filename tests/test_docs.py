"""The reference is made from the code, so that it cannot fall behind; and what the README says can be found there."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from edgeopt import registry
from edgeopt.cli import cli
from edgeopt.recipe.schema import make_schema
from edgeopt.recipe.sections import Recipe

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference.md"

HEAD = """\
# Reference

Made from the code by `make goldens`; do not edit. Exit codes are in the [README](../README.md).
"""


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with their full names."""
    if isinstance(command, click.Group):
        context = click.Context(command, **cli.context_settings)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from commands(found, f"{name} {below}")
    else:
        yield name, command


def shown_type(schema: dict[str, Any]) -> str:
    """What a value of a JSON Schema may be, in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].removesuffix("Section").removesuffix("Budget").lower()
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(shown_type(one) for one in schema["anyOf"]))
    kind = str(schema.get("type", "value"))
    marks = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([kind, *(f"{mark} {schema[key]:g}" for key, mark in marks.items() if key in schema)])


def options_table(model: type[Any]) -> list[str]:
    """A table of the fields of a pydantic model."""
    return fields_table(model.model_json_schema())


def fields_table(schema: dict[str, Any]) -> list[str]:
    """A table of the properties of a JSON Schema."""
    rows = ["| option | value | default | |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = "" if isinstance(field.get("default"), dict) else "needed"
        if "default" in field and not isinstance(field["default"], dict):
            default = f"`{json.dumps(field['default'], ensure_ascii=False)}`"
        rows.append(f"| `{name}` | {shown_type(field)} | {default} | {field.get('description', '')} |")
    return rows if len(rows) > 2 else ["No options."]


def make_reference() -> str:
    lines = [HEAD, "## Commands"]
    root = click.Context(cli, info_name="edgeopt", **cli.context_settings)  # `-h` is inherited from it
    for name, command in sorted(commands(cli, "edgeopt")):
        context = click.Context(command, info_name=name.removeprefix("edgeopt "), parent=root)
        lines += [f"### `{name}`", f"```\n{command.get_help(context)}\n```"]
    lines.append("## Recipe")
    recipe = make_schema()
    sections = [(name, one) for name, one in recipe["$defs"].items() if one.get("properties")]
    for name, section in [("the whole", recipe), *sections]:
        told = [section["description"]] if section.get("description") else []
        title = shown_type({"$ref": name}) if name[0].isupper() else name
        lines += [f"### {title}", *told, "\n".join(fields_table(section))]
    lines.append("## Passes")
    for name in registry.names("passes"):
        found = registry.resolve("passes", name)
        lines += [f"### `{name}` ({found.accepts} → {found.produces})", inspect.getdoc(found) or ""]
        lines.append("\n".join(options_table(found)))
    for kind, title in (
        ("backends", "Backends"),
        ("data", "Data formats"),
        ("metrics", "Metrics"),
        ("sources", "Sources"),
    ):
        lines.append(f"## {title}")
        rows = [(name, inspect.getdoc(registry.resolve(kind, name)) or "") for name in registry.names(kind)]
        lines.append("\n".join(f"- `{name}`: {doc.splitlines()[0]}" for name, doc in rows))
        for name in registry.names(kind) if kind == "backends" else ():
            table = options_table(registry.resolve(kind, name))
            lines += [f"### `{name}`", "\n".join(table)] if len(table) > 2 else []
    return "\n\n".join(lines) + "\n"


def test_the_reference_is_what_the_code_says(request: pytest.FixtureRequest) -> None:
    text = make_reference()
    if request.config.getoption("--update-goldens"):
        REFERENCE.write_text(text, encoding="utf8")
    assert text == REFERENCE.read_text(encoding="utf8"), "run `make goldens` and look at the difference"


def test_every_exit_code_of_the_code_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    codes = set(re.findall(r"exit_code = (\d+)", (ROOT / "edgeopt/errors.py").read_text(encoding="utf8")))
    for code in codes | {"0", "1", "3", "70", "130", "143"}:
        assert re.search(rf"^\| (\d+, )?{code}\b", readme, re.MULTILINE), code


def test_every_recipe_key_that_the_readme_shows_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    recipe = re.search(r"```yaml\n(edgeopt: 1.*?)```", readme, re.DOTALL)
    assert recipe is not None
    for key in re.findall(r"^(\w+):", recipe[1], re.MULTILINE):
        assert key in Recipe.model_fields, key


def test_every_backend_that_the_readme_lists_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    table = re.search(r"^## Backends$(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert table is not None
    listed = re.findall(r"^\| `(\w+)` \|", table[1], re.MULTILINE)
    assert {"onnxruntime_cpu", "openvino_cpu", "tensorrt"} <= set(listed) <= set(registry.names("backends"))


def test_every_test_that_the_page_on_devices_names_is_there() -> None:
    rows = re.findall(r"^\|.*tests/.*\|$", (ROOT / "docs/devices.md").read_text(encoding="utf8"), re.MULTILINE)
    named = [(path, name) for row in rows for path, names in re.findall(r"`(tests/\S+)`: ((?:`test_\w+`(?:, )?)+)", row)
             for name in re.findall(r"\w+", names)]  # fmt: skip
    assert len(named) > 40
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf8"), f"{path}: {name}"


def test_every_command_that_the_page_on_devices_shows_exists() -> None:
    known = [name for name, _ in commands(cli, "edgeopt")]
    shown = re.findall(r"edgeopt (?:[a-z]+ ?)+", (ROOT / "docs/devices.md").read_text(encoding="utf8"))
    of_groups = [one.strip() for one in shown if one.split()[1] in ("device", "bundle", "keys", "fleet", "ship")]
    assert len(of_groups) > 10
    for one in of_groups:
        assert any(one == name or one.startswith(f"{name} ") for name in known), one
