"""What is known of a network and its data → the text of a first recipe, complete and commented.

Pure writing: what stands here was found, said or guessed by somebody else. A guess is marked `CHECK:`, so that it can
be looked for; a limit or pass that a user may want is there as a comment that becomes part of the recipe without `# `.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: stands for a path that only the user knows
PLACEHOLDER = "WHERE-ARE-THE-IMAGES"

WIDTH = 116

#: words that YAML reads as they stand, and those of them that mean no text, by 1.1 or 1.2
WORD = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")
MEANT_OTHERWISE = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan", "."}

#: fewer images prove no accuracy budget of a point
ENOUGH_IMAGES = 500

#: how raw images are most often prepared, by number of channels: for a comment, never taken unasked
ADVICE = {
    1: "{scale: 0.00392157, mean: [0.5], std: [0.5]}",
    3: "{scale: 0.00392157, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
}

TRAINING_PASSES = """\
  # To make the network itself smaller, too: channels are removed, then it is trained for some epochs. Both need labels
  # and `training` under `data`; `edgeopt passes prune_channels` shows the options.
  # - prune_channels: {ratio: 0.3, importance: taylor}
  # - fine_tune: {epochs: 6, distill: true}
"""


@dataclass(frozen=True)
class SplitDraft:
    """One split: where it lies, relative to the recipe; how many samples to use (None: all); what to say of it."""

    path: str
    samples: int | None = None
    note: str = ""


@dataclass(frozen=True)
class DataDraft:
    """The samples. `preprocess` is None where nobody knows it; splits that are `spare` become comments.

    Attributes:
        count: validation images; None: not known.
        classes_known: whether the order of the classes was said, and not read off the folders.
        notes: what to say above the splits.
    """

    format: str
    splits: Mapping[str, SplitDraft]
    spare: Mapping[str, SplitDraft] = field(default_factory=dict)
    classes: Sequence[str] = ()
    classes_known: bool = False
    preprocess: Mapping[str, Any] | None = None
    forced: Mapping[str, Any] = field(default_factory=dict)
    raw: str = ""
    count: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TargetDraft:
    """One target; `notes` say what is missing and what was assumed."""

    name: str
    backends: Sequence[str]
    isa: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Draft:
    """All that a first recipe says.

    Attributes:
        origin: what it was made from, in a line.
        model: the `model:` section without `inputs`.
        inputs: name → shape without the batch axis; empty where the ONNX file says it all.
        inputs_note: why the shapes are only a guess.
        classes: scores of a network that classifies; None: it does something else.
        channels: of its first input, if that is an image.
    """

    name: str
    origin: str
    model: Mapping[str, Any]
    inputs: Mapping[str, Sequence[int]]
    data: DataDraft
    targets: Sequence[TargetDraft]
    inputs_note: str = ""
    classes: int | None = None
    channels: int | None = None

    @property
    def is_onnx(self) -> bool:
        return "onnx" in self.model


def write_draft(draft: Draft) -> str:
    """The text of the recipe; the same draft gives the same text."""
    sections = (_head, _model, _data, _passes, _targets, _budgets)
    return "\n".join("\n".join(section(draft)) + "\n" for section in sections)


def list_checks(text: str) -> list[str]:
    """What a user must look at in a drafted recipe: `line: what`."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {line.partition('CHECK: ')[2]}" for number, line in lines if "CHECK: " in line]


def flow(value: Any) -> str:
    """A value as YAML 1.2 on one line: as JSON, which that is, but for words that need no quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and WORD.fullmatch(value) and value.lower() not in MEANT_OTHERWISE:
        return value
    return json.dumps(value, ensure_ascii=False)


def _head(draft: Draft) -> Iterator[str]:
    yield f"# Drafted by `edgeopt init` from {draft.origin}."
    yield "# CHECK marks what was guessed or is not known. Paths are relative to this file."
    yield "edgeopt: 1"
    yield f"name: {flow(draft.name)}"
    yield "seed: 0"


def _model(draft: Draft) -> Iterator[str]:
    yield "model:"
    for key, value in draft.model.items():
        if value:
            yield f"  {key}: {flow(value)}"
    if draft.inputs:
        shapes = {name: {"shape": list(shape)} for name, shape in draft.inputs.items()}
        if draft.inputs_note:
            yield f"  # CHECK: {draft.inputs_note}"
        yield f"  inputs: {flow(shapes)}  # without the batch axis"
    if draft.classes is not None:
        yield "  # What the network is known to reach on `validation`, in percent. Where it does not,"
        yield "  # compile stops, and names the mistake in labels or preprocessing that explains it: the best check."
        yield "  # expect: {top1: 90.0}"


def _data(draft: Draft) -> Iterator[str]:
    data = draft.data
    yield "data:"
    yield f"  format: {data.format}"
    yield from _classes(draft)
    yield from _preprocess(draft)
    for note in data.notes:
        yield f"  # {note}"
    for name, split in data.splits.items():
        yield _split(name, split)
    for name, split in data.spare.items():
        yield "  # " + _split(name, split).lstrip()
    if data.count is not None and data.count < ENOUGH_IMAGES:
        few = f"{data.count} validation samples may be too few to decide a budget of a point"
        yield f"  # CHECK: {few}: take {ENOUGH_IMAGES} or more"


def _classes(draft: Draft) -> Iterator[str]:
    data = draft.data
    if not data.classes:
        if draft.classes is not None:
            yield f"  # classes: [first, second]  # the {draft.classes} names, in the order of the labels"
        return
    if not data.classes_known:
        yield f"  # CHECK: the {len(data.classes)} folders by name: was the network trained with labels in this order?"
        if all(name.isdigit() for name in data.classes) and list(data.classes) != sorted(data.classes, key=int):
            yield "  # CHECK: they are in the order of text, not of numbers: 10 stands before 2"
    yield from _wrap("  classes: [", [flow(name) for name in data.classes])


def _wrap(start: str, items: Sequence[str]) -> Iterator[str]:
    """A flow list over as many lines as it needs."""
    line = start
    for position, item in enumerate(items):
        item += "]" if position + 1 == len(items) else ","
        if len(line) + len(item) + 1 > WIDTH:
            yield line.rstrip()
            line = "    "
        line += item + " "
    yield line.rstrip()


def _preprocess(draft: Draft) -> Iterator[str]:
    data = draft.data
    if data.preprocess is not None:
        yield f"  preprocess: {flow(dict(data.preprocess))}"
        return
    yield f"  # CHECK: preprocessing is not known: raw values go in as they are{data.raw}"
    yield "  # Write what the network was trained with: resize, crop, channels, scale, mean, std. Often it is"
    yield f"  # preprocess: {ADVICE[1 if draft.channels == 1 else 3]}"
    yield f"  preprocess: {flow(dict(data.forced))}"


def _split(name: str, split: SplitDraft) -> str:
    value = {"path": split.path} | ({} if split.samples is None else {"samples": split.samples})
    return f"  {name}: {flow(value)}" + (f"  # {split.note}" if split.note else "")


def _passes(draft: Draft) -> Iterator[str]:
    yield "passes:  # shared by all variants, in order"
    if not draft.is_onnx:
        yield TRAINING_PASSES + "  - export_onnx: {}"
    yield "  - simplify_onnx: {}"


def _targets(draft: Draft) -> Iterator[str]:
    yield "targets:  # each backend races with each variant: the fastest that meets every budget ships"
    for target in draft.targets:
        yield f"  - name: {flow(target.name)}"
        for note in target.notes:
            yield f"    # {note}"
        yield f"    backends: {flow(list(target.backends))}"
        yield "    variants:"
        yield "      fp32: []"
        # a strongly typed engine is float16 nowhere but where its graph says so
        cast = ", cast_fp16: {}" if "tensorrt" in target.backends else ""
        if cast:
            yield "      fp16: [cast_fp16: {}]"
        yield f"      int8: [quantize_int8: {{}}{cast}]"
        yield f"      # int8_auto: [quantize_int8: {{effort: auto}}{cast}]  # where int8 loses too much"
        if target.isa:
            yield f"    isa: {flow(list(target.isa))}"
        yield "    threads: 1"
        yield "    batch: 1"


def _budgets(draft: Draft) -> Iterator[str]:
    ratio = "1.05" if draft.is_onnx else "1.0"
    yield "budgets:  # what is absent is not judged; what cannot be shown to be met is not passed"
    if draft.classes is None:
        yield "  # CHECK: the network gives no scores of classes: accuracy needs a metric of your own, a function of"
        yield "  # (outputs, labels) that gives each sample a number from 0 to 1"
        yield "  # accuracy: {metric: metric.py:own_metric, max_drop_pp: 1.0}"
    else:
        yield "  accuracy: {metric: top1, max_drop_pp: 1.0, confidence: 0.95}  # points lost on the same images"
    why = "fp32 on ONNX Runtime is the original itself" if draft.is_onnx else "0.5 is twice as fast"
    yield f"  latency: {{max_ratio: {ratio}}}  # time ÷ that of the original; {why}"
    yield "  # Tighten them to what the product needs, such as"
    yield "  # latency: {max_ratio: 0.5, max_ratio_fp32: 0.9, p90_ms: 5.0}  # against float on the same backend, too"
    yield "  # size: {max_mb: 5.0}"
    yield "  # memory: {max_mb: 64}"
