"""`edgeopt device serve`: the active release over HTTP."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from edgeopt.cli import INTERRUPTED, TERMINATED
from edgeopt.cli.device import home_option

CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--threads", type=click.IntRange(1, 256), help="Inferences at once; as many as there are cores for.")
@click.option("--queue", default=32, show_default=True, type=click.IntRange(0, 1000), help="Requests that wait.")
@click.option(
    "--timeout", "seconds", default=30.0, show_default=True, type=click.FloatRange(1, 3600),
    help="Seconds that a request may take; an inference that takes longer makes the health bad.",
)  # fmt: skip
@click.option(
    "--max-body-mb", "body_mb", default=10.0, show_default=True, type=click.FloatRange(0.001, 1000),
    help="How large a request may be, in MB.",
)  # fmt: skip
@home_option
def command(
    host: str, port: int, threads: int | None, queue: int, seconds: float, body_mb: float, folder: Path
) -> None:
    """Answer over HTTP with the active release.

    `POST /predict` takes an image file, or an array as `application/x-npy`; `?top=3` names three classes. `GET /health`
    and `GET /metrics` tell how it fares. Who comes while all places are taken is told to come later, with 503. Only
    this machine can ask unless `--host` says otherwise; there is no password.

    \b
    Example:
      edgeopt device serve --port 8080
      curl -H "Content-Type: image/png" --data-binary @photo.png http://127.0.0.1:8080/predict
    """
    from edgeopt.device.home import Home
    from edgeopt.device.serve import is_loopback, listen, open_service, serve
    from edgeopt.device.service import Limits

    limits = Limits(threads=threads or 0, queue=queue, seconds=seconds, body_bytes=round(body_mb * 1e6))
    with listen(host, port) as listening, open_service(Home(folder), limits, _tell) as service:
        where, number = listening.getsockname()[:2]
        click.echo(f"serving {service.name} on http://{f'[{where}]' if ':' in where else where}:{number}", err=True)
        if not is_loopback(listening):
            click.echo("note: whoever can reach this address can ask, without a password", err=True)
        with _stopped() as (stop, caught):
            finished = serve(service, listening, stop)
        rest = "" if finished else "; not all that was begun was answered in time"
        click.echo(f"stopped after {service.answered} answers{rest}", err=True)
    sys.exit(CODES[caught[0]])


def _tell(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def _stopped() -> Iterator[tuple[threading.Event, list[signal.Signals]]]:
    """An event that the first Ctrl-C or SIGTERM sets, and which it was; a second one stops at once, as ever."""
    stop, caught = threading.Event(), list[signal.Signals]()
    before = {number: signal.getsignal(number) for number in CODES}

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        for one, usual in before.items():
            signal.signal(one, usual)
        stop.set()

    for number in CODES:
        signal.signal(number, note)
    try:
        yield stop, caught
    finally:
        for one, usual in before.items():
            signal.signal(one, usual)
