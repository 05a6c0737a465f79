"""What runs on the device: installs bundles, sees that they work, runs and watches them, goes back where one fails.

    state       what a device holds and uses: a value, and the steps from one to the next
    home        the folder that holds it all, and its lock
    install     in: who signed it, whether it fits and is newer; then onto the disk, whole or not at all
    activate    a smoke test, then the switch
    start       what a process that runs the model asks for: verified, or the one before
    predictor   what `load` gives: samples in, labels out
    serve       the same over HTTP

Imports neither torch nor onnx, and runs on Python 3.10.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeopt.device.predictor import Predictor


def load(path: str | Path, **options: Any) -> Predictor:
    """Open a device's folder, a bundle's folder, or a `.edgeopt` file; options as of `edgeopt.device.predictor.load`.

    with edgeopt.device.load("edgeopt-device") as predictor:
        label = predictor.predict(Path("cat.jpg")).label
    """
    from edgeopt.device import predictor  # here, so that what installs and ships need not wait for it

    return predictor.load(path, **options)
