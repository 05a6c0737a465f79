"""Keep the metrics of a process that answers: in a file for node_exporter, and in the spool for who comes later."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from edgeopt.device.home import Home
from edgeopt.device.metrics import MetricsWatch, render, rollback_family
from edgeopt.device.spool import Spool
from edgeopt.errors import EdgeoptError, TrustError
from edgeopt.model import Value

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
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _keep(home, watch(), spooled=True)


class Kept(Value):
    """The metrics as they last were, so many seconds ago by the device's clock; None: no process has kept any."""

    age_s: float | None
    text: str


def last_metrics(home: Home) -> Kept:
    """What a process that answered has kept last, with the rollbacks as they are now: one that cannot start keeps none.

    Raises:
        TrustError: the device's state cannot be read, or what was kept is no metrics.
    """
    path, families = textfile(home), list[Metric]()
    age_s = round(max(0.0, time.time() - path.stat().st_mtime), 1) if path.is_file() else None
    if age_s is not None:
        try:
            families = list(text_string_to_metric_families(path.read_text(encoding="utf8")))
        except ValueError as error:
            raise TrustError(f"`{path}` holds no metrics: {error}", "remove it: the next process writes it") from error
    fresh = rollback_family(home)
    return Kept(age_s=age_s, text=render([*(one for one in families if one.name != fresh.name), fresh]).decode())


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
