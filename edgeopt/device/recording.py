"""Keep the metrics of a process that answers: in a file for node_exporter, and in the spool for who comes later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeopt.device.home import Home
from edgeopt.device.metrics import MetricsWatch
from edgeopt.device.spool import Spool
from edgeopt.errors import EdgeoptError

#: in a device's home: the metrics as they last were
TEXTFILE = "metrics.prom"

#: the file is new so often, and each so many of its contents go into the spool
TEXTFILE_SECONDS = 60.0
SPOOLED = 15


@contextlib.contextmanager
def recording(home: Home, watch: Callable[[], MetricsWatch], seconds: float = TEXTFILE_SECONDS) -> Iterator[None]:
    """While it lasts, and once more at its end, keep what `watch()` has counted.

    A disk that is full, or a state that cannot be read, costs no answer: it is counted among the metrics.
    """
    stop = threading.Event()

    def run() -> None:
        count = 0
        while not stop.wait(seconds):
            count += 1
            _keep(home, watch(), spooled=count % SPOOLED == 0)

    thread = threading.Thread(target=run, name="metrics", daemon=True)
    thread.start()
    last = watch()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(EdgeoptError):  # a predictor that is closed has no watch any more
            last = watch()
        _keep(home, last, spooled=True)


def textfile(home: Home) -> Path:
    """Where the metrics lie as they last were."""
    return home.folder / TEXTFILE


def _keep(home: Home, watch: MetricsWatch, spooled: bool) -> None:
    try:
        watch.write_textfile(textfile(home))
        if spooled:
            Spool(home).add(watch.render().decode())
    except EdgeoptError:
        watch.snapshot_failed()
