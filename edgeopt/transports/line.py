"""A line to a host: commands and bytes go through it, and where it is cut it is picked up again.

All lines of the process live on one event loop in one thread, so callers, who may be many threads, just wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from edgeopt import files
from edgeopt.errors import DeviceError, MissingError, fault_of_place
from edgeopt.transports import Pins, Progress
from edgeopt.transports.host import CutError, Place, connect, tell

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

#: tries in a row in which nothing comes through, and the longest wait between two
TRIES, LONGEST_WAIT_SECONDS = 5, 10.0
#: of one file, or command, all tries together
MOST_TRIES = 1000

#: until a device has started its edgeopt and hashed what it holds, and until it has stored what came
ANSWER_SECONDS = 120.0
#: until it takes the next bytes
STALL_SECONDS = 60.0

CHUNK_BYTES = 1 << 16

_starting = threading.Lock()


@dataclass(frozen=True)
class Done:
    """How a command ended there."""

    exit_code: int
    output: bytes
    errors: str


class Line:
    """A line to a host; it is there once something goes through it."""

    def __init__(self, place: Place, pins: Pins) -> None:
        self._place, self._pins = place, pins
        self._connection: asyncssh.SSHClientConnection | None = None
        self._best = 0

    def open(self) -> None:
        self._persist(self._connected)

    def close(self) -> None:
        _wait(self._close())

    def execute(
        self, command: str, seconds: float, *, tries: int = TRIES, source: Path | None = None,
        sink: BinaryIO | None = None,
    ) -> Done:  # fmt: skip
        """Run a command to its end, from its beginning after each cut.

        Args:
            source: a file that it reads from its standard input.
            sink: where its output goes instead, from the beginning of that file for each try.

        Raises:
            DeviceError: the host cannot be reached, or the command has not ended in time.
        """
        return self._persist(lambda: self._talk(command, seconds, source, sink), tries)

    def upload(self, command: str, file: Path, progress: Progress | None = None) -> Done:
        """Bring a file to a command that is `edgeopt device receive`: after a cut, it goes on where that is.

        Raises:
            DeviceError: as for `execute`.
        """
        self._best = 0
        return self._persist(lambda: self._offer(command, file, progress))

    def _persist(self, attempt: Callable[[], Coroutine[Any, Any, T]], tries: int = TRIES) -> T:
        """Try again after a cut, as often as something came through, and `tries` times in a row where nothing did."""
        failures, why = 0, ""
        for _ in range(MOST_TRIES):
            before = self._best
            try:
                return _wait(attempt())
            except CutError as cut:
                why = str(cut)
            self.close()
            failures = 1 if self._best > before else failures + 1
            if failures >= tries:
                break
            time.sleep(min(0.25 * 2**failures, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.5))
        times = f", {failures} times in a row" if failures > 1 else ""
        hint = "see that it is on and connected; the same command goes on where this one stopped"
        raise DeviceError(f"no connection to `{self._place.name}`{times}: {why}", hint)

    async def _connected(self) -> asyncssh.SSHClientConnection:
        if self._connection is None:
            self._connection = await connect(self._place, self._pins)
        return self._connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def _talk(self, command: str, seconds: float, source: Path | None, sink: BinaryIO | None) -> Done:
        import asyncssh

        connection = await self._connected()
        with contextlib.ExitStack() as stack:
            given: dict[str, Any] = {"stdin": stack.enter_context(source.open("rb")) if source else asyncssh.DEVNULL}
            if sink is not None:
                sink.seek(0)
                sink.truncate()
                given |= {"stdout": sink, "recv_eof": False}  # it stays open
            with _cuts():
                process = await connection.create_process(command, encoding=None, **given)
                return await self._end(process, seconds)

    async def _end(self, process: asyncssh.SSHClientProcess[bytes], seconds: float) -> Done:
        import asyncssh

        try:
            done = await process.wait(timeout=seconds)
        except asyncssh.TimeoutError as error:
            process.terminate()
            raise DeviceError(
                f"`{self._place.name}` did not answer in {seconds:g} seconds", "see what it is doing"
            ) from error
        if done.returncode is None:
            raise CutError("connection lost")
        output, errors = done.stdout or b"", done.stderr or b""
        assert isinstance(output, bytes)
        assert isinstance(errors, bytes)
        return Done(done.returncode, output, errors.decode(errors="replace"))

    async def _offer(self, command: str, file: Path, progress: Progress | None) -> Done:
        """Hear what the device holds of a file, and bring the rest."""
        connection = await self._connected()
        with _cuts():
            process = await connection.create_process(command, encoding=None)
            line = await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS)
            if not line:
                return await self._end(process, ANSWER_SECONDS)
            held, sha256 = self._read_offer(line)
            offset = held if await asyncio.to_thread(_hash_start, file, held) == sha256 else 0
            self._best = max(self._best, offset)
            with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
                process.stdin.write(json.dumps({"offset": offset}).encode() + b"\n")
                await _feed(process, file, offset, progress)
            return await self._end(process, ANSWER_SECONDS)

    def _read_offer(self, line: bytes) -> tuple[int, str]:
        try:
            offer = json.loads(line)
            return int(offer["held"]), str(offer["sha256"])
        except (ValueError, TypeError, KeyError) as error:
            raise strange_answer(self._place.name, line) from error


def strange_answer(name: str, answer: bytes) -> DeviceError:
    """The error that a device said something else than it should."""
    hint = "its shell may print something at login, which it must not where nobody reads"
    shown = " ".join(answer[:80].decode(errors="replace").split())
    return DeviceError(f"`{name}` answered something else than JSON: `{shown}`", hint)


async def _feed(
    process: asyncssh.SSHClientProcess[bytes], file: Path, offset: int, progress: Progress | None
) -> None:  # fmt: skip
    size_bytes = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(CHUNK_BYTES):
            process.stdin.write(chunk)
            await asyncio.wait_for(process.stdin.drain(), STALL_SECONDS)
            await asyncio.sleep(0)  # let the loop see what has come, if only the end of the connection
            offset += len(chunk)
            if progress is not None:
                progress(offset, size_bytes)
    process.stdin.write_eof()


def _hash_start(file: Path, size_bytes: int) -> str:
    """The digest of the first bytes of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while size_bytes > 0 and (chunk := stream.read(min(files.CHUNK_BYTES, size_bytes))):
            digest.update(chunk)
            size_bytes -= len(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _cuts() -> Iterator[None]:
    """Name what no command is to blame for: the connection is gone."""
    import asyncssh

    try:
        yield
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise CutError("it takes no more bytes") from error
    except (OSError, asyncssh.Error) as error:
        raise CutError(tell(error)) from error


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop, and wait for it; what interrupts the wait stops it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except ModuleNotFoundError as error:
        raise fault_of_place(error) or MissingError(str(error)) from error
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:  # a cache alone may call twice what two threads ask for at once
        return _start_loop()


@functools.cache
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ssh", daemon=True).start()
    return loop
