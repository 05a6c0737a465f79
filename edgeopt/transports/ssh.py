"""A device that is reached by SSH: `ssh://user@host[:port]/app`, whose own edgeopt does there what is asked.

Nothing is needed there but a shell and edgeopt. A file goes through `edgeopt device receive`, which keeps what came
before a cut, and a command is run anew. The device's errors come back as what they were there.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from edgeopt import files
from edgeopt.errors import BuildError, DeviceError, DiskError, EdgeoptError, TrustError, UsageError
from edgeopt.transports import DeviceTransport, Pins, Progress, shipped_name
from edgeopt.transports.host import parse_place
from edgeopt.transports.line import TRIES, Done, Line, strange_answer

#: what is not the same when it is done twice, so a lost answer must not lead to a second try
ONCE = frozenset({"rollback"})

#: where `ship --bootstrap` and pip's `--user` put programs; the login shell need not know them
PATHS = "$HOME/.edgeopt/bin:$HOME/.local/bin:$PATH"

KINDS: dict[int, type[EdgeoptError]] = {
    kind.exit_code: kind for kind in (UsageError, TrustError, BuildError, DeviceError)
}
NOT_FOUND = (126, 127)

LOG_LINES = 20


class Ssh(DeviceTransport):
    """See the module."""

    def __init__(self, address: str, pins: Pins) -> None:
        super().__init__(address, pins)
        self.place = parse_place(address)
        self._line = Line(self.place, pins)

    def __enter__(self) -> Ssh:
        self._line.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def send(self, bundle: Path, progress: Progress | None = None) -> str:
        return self.put(bundle, shipped_name(bundle), progress)

    def run(self, *arguments: str, seconds: float = 600.0) -> Any:
        tries = 1 if arguments[0] in ONCE else TRIES
        return self._read_answer(self._line.execute(self._command(*arguments, "--json"), seconds, tries=tries))

    def put(self, file: Path, name: str, progress: Progress | None = None) -> str:
        size, sha256 = str(file.stat().st_size), files.hash_file(file)
        command = self._command("receive", name, "--bytes", size, "--sha256", sha256)
        return str(self._read_answer(self._line.upload(command, file, progress))["path"])

    def discard(self, name: str) -> None:
        self.shell(shlex.join(["rm", "-f", "--", name]))

    def get(self, name: str, path: Path) -> None:
        with files.scratch(path.absolute().parent) as folder:
            with files.create(folder / path.name) as stream:
                self.shell(shlex.join(["cat", "--", name]), sink=stream)
            files.publish_file(folder / path.name, path.absolute())

    def shell(
        self, script: str, seconds: float = 600.0, source: Path | None = None, sink: BinaryIO | None = None
    ) -> str:  # fmt: skip
        """What a script prints there, for a POSIX shell in the login folder; it must bear being begun anew.

        Args:
            source: a file that it reads from its standard input.
            sink: where its output goes instead, from the beginning of that file for each try.

        Raises:
            DeviceError: it fails.
        """
        done = self._line.execute(f"sh -c {shlex.quote(script)}", seconds, source=source, sink=sink)
        if done.exit_code:
            last = (done.errors.strip().splitlines() or [f"exit code {done.exit_code}"])[-1]
            raise DeviceError(f"`{self.place.name}`: {last}", "`--verbose` shows what it wrote", done.errors)
        return done.output.decode(errors="replace")

    def _command(self, *arguments: str) -> str:
        """The command line of `edgeopt device` for this home."""
        program = shlex.quote(self.pins.edgeopt or "edgeopt")
        line = f'PATH="{PATHS}" EDGEOPT_DEVICE={shlex.quote(self.place.home)} exec {program} device '
        return f"sh -c {shlex.quote(line + shlex.join(arguments))}"

    def _read_answer(self, done: Done) -> Any:
        if done.exit_code:
            raise self._fault(done)
        try:
            return json.loads(done.output)
        except ValueError as error:
            raise strange_answer(self.place.name, done.output) from error

    def _fault(self, done: Done) -> EdgeoptError:
        """The error that the device told, of the class that it had there."""
        name, lines = self.place.name, done.errors.splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        hint = next((line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")), "")
        log = "\n".join(lines[-LOG_LINES:])
        if done.exit_code in NOT_FOUND and not said:
            hint = "`edgeopt ship --bootstrap` installs it; if it is there, `edgeopt:` in the inventory says where"
            return DeviceError(f"there is no edgeopt on `{name}`", hint, log)
        if not said or done.exit_code not in KINDS:
            what = f"edgeopt on `{name}` ended with exit code {done.exit_code}"
            return DeviceError(what, "`--verbose` shows what it wrote", log)
        kind = DiskError if said[0].startswith("no space left") else KINDS[done.exit_code]
        return kind(f"`{name}`: " + "\n".join(said), hint, log)
