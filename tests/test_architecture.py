"""The shape of the package, held by tests: rows, no rings, sizes, docstrings, and what is imported when.

`ROWS` is the one list of the package's parts, top to bottom as data meets them: a file imports only from rows above its
own, and inside a folder from its `__init__` and its neighbours, never in a ring.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgeopt"

ROWS = """
    errors files compression model registry environment workers keys store user_code checkpoint edits network
    onnx_graph exporting
    data metrics recipe sources context inputs plan
    quantization clock gain training pruning reshaping sparsity engines onnx_sessions openvino_sessions
    passes backends counters validation
    gates select bundle transports device fleet report
    remote reaching baseline tuning execute comparison delivery pipeline bench explain drafting watching
    examining cli __main__
""".split()  # noqa: SIM905

#: imported inside the function that needs them, so that help, plan and schema start at once and work without them
HEAVY = {
    "jinja2", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "onnxslim", "openvino", "rich", "safetensors", "scipy",
    "polygraphy", "tensorrt", "torch", "torch_pruning",
}  # fmt: skip
MACHINERY = {
    "pruning",
    "reshaping",
    "sparsity",
    "edits",
    "exporting",
    "clock",
    "quantization",
    "training",
    "network",
    "onnx_graph",
    "checkpoint",
    "watching",
    "explain",
}

#: not imported by `edgeopt --help`, beside the heavy ones
NOT_FOR_HELP = HEAVY | {"numpy", "pydantic", "PIL", "ruamel"}

LONGEST_FILE, LONGEST_FUNCTION, DEEPEST, EXPLAINS_ITSELF = 400, 60, 4, 6

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules() -> list[str]:
    """The dotted names of all modules below `edgeopt`, without it: `files`, `data`, `data.npz` …"""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths if path.parts != ("__init__",)]


MODULES = modules()


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf8"))


def imports(module: str, *, only_at_top: bool = False) -> Iterator[str]:
    """The dotted names of what a module imports, anywhere or while it is being imported itself."""
    for node in top_level(tree(module)) if only_at_top else ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"edgeopt/{path_of(module).name}:{node.lineno}: write imports in full"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes outside of functions, and outside of what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS) or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            continue
        yield child
        yield from top_level(child)


def own_imports(module: str) -> set[str]:
    """Those of edgeopt's modules that a module imports: `edgeopt.files.write_bytes` is `files`."""
    found = set()
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "edgeopt" and len(parts) > 1:
            parts = parts[1:]
            while ".".join(parts) not in MODULES:
                parts.pop()
            found.add(".".join(parts))
    return found - {module}


def definitions(module: str) -> Iterator[Definition]:
    yield from (node for node in ast.walk(tree(module)) if isinstance(node, Definition))


def lines_of(node: Definition) -> int:
    """How long a definition is without its docstring."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        assert node.body[0].end_lineno is not None
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def depth_of(node: ast.AST, depth: int = 0) -> int:
    """How deep blocks nest inside one function; an `elif` adds no level."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth_of(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def test_the_tests_see_the_whole_package() -> None:
    assert {"files", "data", "data.npz", "bundle.unpack", "cli"} <= set(MODULES)
    assert own_imports("data.npz") >= {"data", "errors"}


def test_every_part_has_a_row() -> None:
    assert {module.split(".")[0] for module in MODULES} <= set(ROWS)


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_only_from_rows_above_its_own(module: str) -> None:
    own = module.split(".")[0]
    used = {name.split(".")[0] for name in own_imports(module)} - {own}
    below = [name for name in used if ROWS.index(name) > ROWS.index(own)]
    assert not below, f"`{module}` imports {', '.join(sorted(below))}, which stand below `{own}`"


def test_no_two_files_import_each_other_even_by_way_of_others() -> None:
    order = graphlib.TopologicalSorter({module: own_imports(module) for module in MODULES})
    order.prepare()  # raises CycleError, which names the ring


def test_passes_know_no_backend() -> None:
    assert not [module for module in MODULES if module.startswith("passes") and "backends" in own_imports(module)]


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] not in MACHINERY])
def test_heavy_libraries_wait_until_they_are_needed(module: str) -> None:
    heavy = {name.split(".")[0] for name in imports(module, only_at_top=True)} & HEAVY
    assert not heavy, f"`{module}` imports {', '.join(sorted(heavy))} at its top"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module)), "the module has no docstring"
    bare = [
        node.name
        for node in tree(module).body
        if isinstance(node, Definition)
        and not node.name.startswith("_")
        and lines_of(node) > EXPLAINS_ITSELF
        and ast.get_docstring(node) is None
    ]
    assert not bare, f"no docstring: {', '.join(bare)}"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small_and_flat(module: str) -> None:
    assert len(path_of(module).read_text(encoding="utf8").splitlines()) <= LONGEST_FILE
    functions = [node for node in definitions(module) if isinstance(node, FUNCTIONS)]
    long = [f"{node.name} ({lines_of(node)} lines)" for node in functions if lines_of(node) > LONGEST_FUNCTION]
    deep = [f"{node.name} ({depth_of(node)} deep)" for node in functions if depth_of(node) > DEEPEST]
    assert not long + deep


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_and_result_has_a_type(module: str) -> None:
    untyped = []
    for node in definitions(module):
        if isinstance(node, FUNCTIONS):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            named = [argument for argument in given if argument is not None and argument.arg not in ("self", "cls")]
            untyped += [f"{node.name}({argument.arg})" for argument in named if argument.annotation is None]
            untyped += [f"{node.name} -> ?"] if node.returns is None else []
    assert not untyped


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_printed(module: str) -> None:
    called = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    assert "print" not in {function.id for function in called if isinstance(function, ast.Name)}


@pytest.mark.parametrize("module", MODULES)
def test_no_name_says_nothing(module: str) -> None:
    empty = {"manager", "handler", "helper", "helpers", "util", "utils", "processor", "common", "misc"}
    names = [module, *(node.name for node in definitions(module))]
    assert not [name for name in names if empty & set(name.lower().replace(".", "_").split("_"))]


def imported_by(code: str) -> set[str]:
    """The top-level modules that are loaded once `code` has run in a fresh Python."""
    report = "import sys; sys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    program = f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_importing_edgeopt_loads_nothing_that_costs_time() -> None:
    assert not imported_by("import edgeopt") & (NOT_FOR_HELP | {"click"})


def test_help_loads_nothing_that_costs_time() -> None:
    loaded = imported_by("import sys; sys.argv = ['edgeopt', '--help']; from edgeopt.cli import main; main()")
    assert "click" in loaded
    assert not loaded & NOT_FOR_HELP


@pytest.mark.parametrize("command", [path.stem for path in sorted((PACKAGE / "cli").glob("[a-z]*.py"))])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = f"import sys; sys.argv = ['edgeopt', {command!r}, '--help']; from edgeopt.cli import main; main()"
    assert not imported_by(code) & HEAVY


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    places = ["work/", "root/", "tmp/w"]
    hosts = ["pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org"]
    shown = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    faults = []
    for name in filter(None, shown):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content:
            text = content.decode(errors="replace")
            faults += [f"{name}: {place}" for place in [*(f"/{place}" for place in places), *hosts] if place in text]
    assert not faults
