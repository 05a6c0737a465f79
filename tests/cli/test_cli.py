"""The command line as a user meets it: help, exit codes, one `error:` line with a hint, and a clean end on signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

from edgeopt import cli, registry
from edgeopt.errors import (
    BackendError,
    DeviceError,
    DiskError,
    EdgeoptError,
    MissingError,
    TrustError,
    UsageError,
    WorkerError,
)

DIGITS = str(Path(__file__).parents[2] / "recipes" / "digits.yaml")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Runs the command line in this process, with a store of its own."""
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "100")
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edgeopt", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Ran(int(caught.value.code or 0), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def all_commands() -> list[tuple[str, ...]]:
    """The words of every command, groups and those inside them."""

    def walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from walk(inner, (*words, name))

    return list(walk(cli.cli, ()))


COMMANDS = all_commands()


def refused(ran: Ran, code: int, message: str, hint: str) -> None:
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err == f"error: {message}\n\nhint: {hint}\n"


# help


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "edgeopt")
def test_every_command_has_help_with_an_example(
    words: tuple[str, ...], run: Run, golden: Callable[[str, str], None]
) -> None:
    ran = run(*words, "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert "Example:\n    edgeopt " in ran.out
    assert "..." not in ran.out.split("Commands:")[-1].replace("[ARGS]...", ""), "a summary is cut off: make it shorter"
    assert all(len(line) <= 100 for line in ran.out.splitlines())
    assert run(*words, "-h").out == ran.out
    golden(f"help/{'_'.join(words) or 'edgeopt'}.txt", ran.out)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "edgeopt")
def test_every_example_names_a_command_and_options_that_exist(words: tuple[str, ...], run: Run) -> None:
    _, *example = run(*words, "--help").out.split("Example:\n")[1].splitlines()[0].split()
    used = max((known for known in COMMANDS if tuple(example[: len(known)]) == known), key=len)
    assert used[: len(words)] == words
    options = run(*used, "--help").out
    assert all(word in options for word in example if word.startswith("--"))


def test_without_a_command_the_help_is_shown_as_wrong_usage(run: Run) -> None:
    for words in ((), ("cache",), ("bundle",)):
        ran = run(*words)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err == run(*words, "--help").out


def test_a_file_without_a_command_is_no_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgeopt.cli.tables", ModuleType("edgeopt.cli.tables"))
    monkeypatch.setattr(cli, "_module_names", lambda package: ["schema", "tables"])
    assert "tables" not in run("--help").out
    assert run("tables").code == 2


def test_the_version_is_shown(run: Run) -> None:
    ran = run("--version")
    assert ran.code == 0
    assert ran.out.startswith("edgeopt")


# wrong usage


def test_an_unknown_command_comes_with_the_nearest_one(run: Run) -> None:
    refused(run("compil", "x"), 2, "no such command `compil`", "did you mean `compile`?")
    refused(run("cache", "lss"), 2, "no such command `lss`", "did you mean `ls`?")
    assert "known: backends, bench, bundle" in run("xyz").err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["compile"], "missing argument `RECIPE`", "`edgeopt compile --help` shows how it is used"),
        (["plan", "a", "b"], "got unexpected extra argument (b)", "`edgeopt plan --help` shows how it is used"),
        (["compile", "x", "--sett", "a=1"], "no such option `--sett`", "did you mean `--set`?"),
        (["compile", "x", "--set"], "option `--set` requires an argument", "`edgeopt --help` shows how it is used"),
        (["cache", "gc", "--older-than", "-1"], "invalid value for `--older-than`: -1.0 is not in the range x>=0",
         "`edgeopt cache gc --help` shows how it is used"),
        (["--nope"], "no such option `--nope`", "`edgeopt --help` shows how it is used"),
        (["passes", "prune_chanels"], "unknown pass `prune_chanels`", "did you mean `prune_channels`?"),
        (["plan", "nowhere.yaml"], "cannot read the recipe `nowhere.yaml`: no such file or directory",
         "give the path of a YAML file"),
        (["plan", DIGITS, "--target", "x68"], "the recipe has no target `x68`", "did you mean `x86`?"),
        (["cache", "why", "fine_tun", DIGITS], "the plan has no step `fine_tun`", "did you mean `fine_tune`?"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_a_hint(arguments: list[str], message: str, hint: str, run: Run) -> None:
    refused(run(*arguments), 2, message, hint)


def test_each_fault_of_a_recipe_has_a_line_of_its_own(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("edgeopt: 2\nname: 5\n")
    for command in ("plan", "compile"):
        ran = run(command, str(path))
        assert ran.code == 2
        lines = ran.err.splitlines()
        assert f"error: {path}:1:10: `edgeopt` should be 1, found `2`" in lines
        assert f"error: {path}:1:1: missing key `model`" in lines
        assert lines[-2:] == ["", "hint: `edgeopt schema` prints every key, pass and option"]
        assert not (tmp_path / "store").exists(), "nothing is written before the recipe is sound"


# errors and bugs


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2), (TrustError("x"), 4), (BackendError("x"), 5), (MissingError("x"), 5),
        (DeviceError("x"), 6), (EdgeoptError("x"), 5),
    ],
)  # fmt: skip
def test_each_error_has_its_exit_code(
    error: EdgeoptError, code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "names", raising(error))
    ran = run("passes")
    assert (ran.code, ran.err) == (code, "error: x\n")


def test_the_log_of_a_worker_is_shown_between_its_error_and_the_hint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", raising(WorkerError("it crashed", "look above", "one\ntwo")))
    assert run("passes").err == "error: it crashed\n  | one\n  | two\n\nhint: look above\n"


def test_the_log_of_another_error_is_shown_to_those_who_ask(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.recipe.load_recipe", raising(BackendError("it failed", "look", "one\ntwo")))
    assert run("compile", "x").err == "error: it failed\n\nhint: look\n"
    assert run("compile", "x", "--verbose").err == "error: it failed\n  | one\n  | two\n\nhint: look\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), 5,
         "error: `onnxruntime` is not installed\n\nhint: pip install 'edgeopt[cpu]'\n"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 5,
         "error: `onnx` is not installed\n\nhint: pip install 'edgeopt[compile]'\n"),
        (PermissionError(13, "Permission denied", "w.pt"), 2, "error: cannot use `w.pt`: permission denied\n"),
        (IsADirectoryError(21, "Is a directory", b"images"), 2, "error: cannot use `images`: is a directory\n"),
        (DiskError("no space left on the disk for `x`"), 5, "error: no space left on the disk for `x`\n\nhint: free"),
    ],
)  # fmt: skip
def test_what_the_surroundings_lack_is_no_bug(
    error: Exception, code: int, told: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "names", raising(error))
    ran = run("passes")
    assert ran.code == code
    assert ran.err.startswith(told)


@pytest.mark.parametrize(
    "error", [OSError(9, "Bad file descriptor"), ModuleNotFoundError("No module named 'torch.gone'", name="torch.gone"),
              ModuleNotFoundError("No module named 'edgeopt.gone'", name="edgeopt.gone")]
)  # fmt: skip
def test_what_only_looks_like_the_surroundings_is_a_bug(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "names", raising(error))
    assert run("passes").code == 70


def test_a_bug_shows_its_traceback_and_asks_to_report_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", raising(RuntimeError("unthought of")))
    ran = run("passes")
    assert ran.code == 70
    assert "Traceback (most recent call last):" in ran.err
    assert "RuntimeError: unthought of" in ran.err
    assert "error: this is a bug in edgeopt, not in your input" in ran.err
    assert ran.err.endswith("the output of `edgeopt doctor`\n")


def raising(error: Exception) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise error

    return fail


# signals and pipes

SLEEPING = """
import sys, time
from edgeopt import registry
def sleep(kind):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
registry.names = sleep
sys.argv = ["edgeopt", "passes"]
from edgeopt.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_unwinds_everything_and_has_its_own_exit_code(number: signal.Signals, code: int, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == "cleaned up\n"
    hint = "run the same command again to go on from there"
    assert err == f"error: {how}; finished steps are kept\n\nhint: {hint}\n"


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `$edgeopt` is the program."""
    environ = os.environ | {"edgeopt": f"{sys.executable} -m edgeopt"}
    return subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_reader_that_goes_away_is_no_bug() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edgeopt", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 130


def test_a_shell_can_complete_commands_and_options() -> None:
    ran = in_shell("_EDGEOPT_COMPLETE=bash_complete COMP_WORDS='edgeopt com' COMP_CWORD=1 $edgeopt")
    assert ran.stdout == "plain,compile\n"
    assert "_EDGEOPT_COMPLETE=bash_complete" in in_shell("_EDGEOPT_COMPLETE=bash_source $edgeopt").stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told() -> None:
    ran = in_shell("$edgeopt schema > /dev/full")
    assert ran.returncode == 5
    assert ran.stderr == "error: no space left on the disk\n\nhint: free some space, then run again\n"


def test_a_closed_stdout_is_no_bug() -> None:
    assert in_shell("$edgeopt --version >&-").returncode == 0


# what is printed


def test_what_is_data_is_json_on_stdout(run: Run) -> None:
    for arguments in (("schema",), ("passes", "--json"), ("backends", "--json"), ("doctor", "--json"),
                      ("plan", DIGITS, "--json"), ("cache", "ls", "--json")):  # fmt: skip
        ran = run(*arguments)
        assert ran.code == 0, ran.err
        assert ran.err == ""
        json.loads(ran.out)


def test_the_options_of_a_pass_are_shown_with_their_defaults(run: Run) -> None:
    out = run("passes", "prune_channels").out
    assert re.search(r"^  ratio +default null: ", out, re.MULTILINE)
    assert re.search(r'^  scope +default "local": ', out, re.MULTILINE)
    assert all(len(line) <= 100 for line in out.splitlines())
    assert "Undefined" not in out


def test_a_plan_shows_every_step_and_why_it_would_run(run: Run) -> None:
    out = run("plan", DIGITS).out
    assert out.startswith("digits · 1 target(s) · ")
    for step in ("load original", "read data", "prune_channels", "quantize_int8 [int8]", "time [x86]"):
        assert f"  {step} " in out
    assert out.count("has not run yet") == len(out.splitlines()) - 2
    steps = json.loads(run("plan", DIGITS, "--json").out)["steps"]
    assert len({step["key"] for step in steps}) == len(steps)


def test_the_store_of_finished_steps_can_be_looked_at_when_it_is_empty(run: Run) -> None:
    assert run("cache", "ls").out == ""
    assert run("cache", "verify").out == "0 steps, all sound\n"
    assert run("cache", "gc").out == "removed 0 steps, 0.0 MB\n"
    assert run("cache", "why", "fine_tune", DIGITS).out == "fine_tune: it has not run yet\n"


def test_a_damaged_step_in_the_store_exits_with_4(run: Run, tmp_path: Path) -> None:
    (tmp_path / "store" / "steps" / ("0" * 64)).mkdir(parents=True)
    ran = run("cache", "verify")
    refused(ran, 4, "the stored step `000000000000` is damaged", "the next run does these steps again")
    assert run("cache", "ls").err == "1 cannot be read: see `edgeopt cache verify`\n"
