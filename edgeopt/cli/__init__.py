"""The command line: each command is a thin skin over the library, found by the name of its file.

A file `cli/<name>.py` holds one Click command or group called `command`; a large group is a folder with a file for each
of its commands. It is imported when it is asked for, and imports what is heavy inside its functions, so that help is
there at once. `main` is the one place that turns an error
into a message and an exit code.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from edgeopt.errors import DiskError, EdgeoptError, UsageError, WorkerError, did_you_mean, fault_of_file, fault_of_place

#: the shell asks for completion through this: `eval "$(_EDGEOPT_COMPLETE=bash_source edgeopt)"`
COMPLETE = "_EDGEOPT_COMPLETE"

BUG = 70
INTERRUPTED = 130
TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived; like `KeyboardInterrupt`, it unwinds everything so that all is cleaned up."""


class LazyGroup(click.Group):
    """A group whose commands are the files of a package that hold one."""

    package = __name__

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _module_names(self.package) if self.get_command(ctx, name) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _module_names(self.package):
            return None
        command: click.Command | None = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), "command", None)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(f"no such command `{args[0]}`", did_you_mean(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


def _module_names(package: str) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        import importlib.metadata

        try:
            click.echo(f"edgeopt {importlib.metadata.version('edgeopt')}")
        except importlib.metadata.PackageNotFoundError:
            click.echo("edgeopt, run from its sources and not installed")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Make a trained CNN small and fast for an edge device, and prove it.

    \b
    Example:
      edgeopt compile recipes/digits.yaml
    """


def main() -> NoReturn:
    """Run the command line and exit with the code that `errors.py` gives."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(_run())
    except EdgeoptError as error:
        sys.exit(_tell(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(UsageError.exit_code)
    except click.ClickException as error:
        sys.exit(_tell(_as_usage_error(error)))
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted", INTERRUPTED)
    except Terminated:
        _stop("terminated", TERMINATED)
    except BrokenPipeError:
        _abandon_output()  # whoever read it has gone; there is nobody to tell
        sys.exit(INTERRUPTED)
    except Exception as error:
        fault = fault_of_place(error) or fault_of_file(error)
        if fault is None:
            _tell_bug(error)
            sys.exit(BUG)
        if isinstance(fault, DiskError):
            _abandon_output()  # it may be stdout that is full
        sys.exit(_tell(fault.keep_trace(error)))


def _run() -> int:
    """Run the command line; not by `cli.main`, which makes of a broken pipe an exit code that means a missed budget."""
    code = 0
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "edgeopt", COMPLETE, instruction)
    try:
        with cli.make_context("edgeopt", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    if sys.stdout is not None:  # it was closed by whoever started us
        sys.stdout.flush()
    return code


def _tell(error: EdgeoptError) -> int:
    for line in error.message.splitlines():
        click.echo(f"error: {line}", err=True)
    if error.log and (isinstance(error, WorkerError) or "--verbose" in sys.argv):
        click.echo("\n".join(f"  | {line}" for line in error.log.splitlines()), err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)
    return error.exit_code


def _as_usage_error(error: click.ClickException) -> UsageError:
    """`No such option '--sett'. Did you mean '--set'?` in our form."""
    text, _, advice = error.format_message().replace("'", "`").partition(" Did you mean ")
    context = getattr(error, "ctx", None)
    hint = f"`{context.command_path if context else 'edgeopt'} --help` shows how it is used"
    return UsageError(text[:1].lower() + text[1:].rstrip("."), f"did you mean {advice}" if advice else hint)


def _abandon_output() -> None:
    """Let nothing more be written to stdout, not even by the interpreter as it ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _tell_bug(error: Exception) -> None:
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo("error: this is a bug in edgeopt, not in your input", err=True)
    click.echo("\nhint: please report it with the lines above and the output of `edgeopt doctor`", err=True)


def _stop(how: str, code: int) -> NoReturn:
    click.echo(f"error: {how}; finished steps are kept", err=True)
    again = "run it again without `--fresh`" if "--fresh" in sys.argv else "run the same command again"
    click.echo(f"\nhint: {again} to go on from there", err=True)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    main()
