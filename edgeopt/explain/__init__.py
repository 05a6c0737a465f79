"""Why a candidate is not faster, and why it is less accurate, each with the edit of the recipe that would help.

The flow, one file each:

    candidates   a report → one `Explanation` for each candidate
    artifacts    where the files of a report lie now, and what they are to be run on
    examine      what runs in a worker: opens sessions and gives causes
    profile      ONNX Runtime's own profile of a graph: the time of each node, and of runs that differ in one thing
    layers       the graph that was built: its layers, and which of them a node of the runtime came from
    machine      what of this machine decides how fast a graph may be
    speed        profile, layers and machine → the causes of time; pure
    noise        the float and the quantized graph side by side → the noise of each layer
    accuracy     the noise and the report → the causes of lost accuracy
    edits        what is written into a recipe
    text         how it is shown

A share is measured: the time of the nodes that a cause names, of the time of all nodes, or what a run costs more than
one that differs in this cause alone. That the cause is to blame for it is concluded. Shares overlap where two causes
meet in one layer.
"""

from __future__ import annotations

from edgeopt.model import Value


class LayerShare(Value):
    """The share of the time of all nodes that those of one layer take."""

    layer: str
    share: float


class Cause(Value):
    """One cause.

    `name` is steady from release to release, `share` what was measured of it (None: it has no share of time), `edit`
    what to write into the recipe, empty where nothing there would help, and `advice` a word on that.
    """

    name: str
    share: float | None = None
    sentence: str
    edit: str = ""
    advice: str
    layers: tuple[LayerShare, ...] = ()


class LayerNoise(Value):
    """Signal to noise of what one layer makes, in dB, where that layer alone is quantized: its inputs are exact."""

    layer: str
    operator: str
    sqnr_db: float


class Noise(Value):
    """The noise of a quantized graph against the float graph that it was made from, on `inputs` (which and how many).

    `output_db` is that of its worst output with everything quantized; `layers` begin with the noisiest.
    """

    inputs: str
    output_db: float
    layers: tuple[LayerNoise, ...]


class Explanation(Value):
    """One candidate of one target.

    `measured` is what the report says of it; `run_ms` was measured here, without profiling. `notes` say what could not
    be examined, and what else a reader must know.
    """

    target: str
    candidate: str
    measured: str
    run_ms: float | None = None
    slow: tuple[Cause, ...] = ()
    inaccurate: tuple[Cause, ...] = ()
    noise: Noise | None = None
    notes: tuple[str, ...] = ()
