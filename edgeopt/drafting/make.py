"""Source, samples and targets into one draft: what each leaves open is settled by the others, and they must agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeopt.data.survey import Survey
from edgeopt.drafting import Ask, Options, preparing, samples, source, targets
from edgeopt.drafting.samples import ARRAYS, CALIBRATION, IMAGES, Located
from edgeopt.errors import DataError, UsageError
from edgeopt.model import Model
from edgeopt.recipe.draft import PLACEHOLDER, DataDraft, Draft, SplitDraft
from edgeopt.recipe.sections import PLAIN_NAME


@dataclass(frozen=True)
class Looked:
    """What is known of the data before the network is run: nothing, where there is none."""

    located: Located | None
    preprocess: Mapping[str, Any] | None
    forced: Mapping[str, Any]
    validation: Survey | None

    @property
    def prepared(self) -> dict[str, Any]:
        return dict(self.forced) | dict(self.preprocess or {})


def make_draft(options: Options, ask: Ask) -> Draft:
    """Find out all that a first recipe says.

    Raises:
        EdgeoptError: the network or the data cannot be used, do not fit each other, or something was not said.
    """
    name = _name(options)
    wanted = targets.find_targets(options.targets)
    given = source.find_source(options, ask)
    looked = _look(options, given, ask)
    suggested = {} if looked.validation is None else _only(looked.validation)
    inputs, note = source.settle_inputs(given, suggested, ask)
    model, facts = source.load(given, inputs)
    classes = count_classes(model)
    image = model.inputs[0].shape[1:]
    return Draft(
        name=name,
        origin=f"{options.model.name}: {facts.get('summary', '')}; {_outputs(model, classes)}",
        model=given.section,
        inputs=inputs,
        inputs_note=note,
        data=_data(options, looked, model, classes),
        targets=wanted,
        classes=classes,
        channels=image[0] if len(image) == 3 and isinstance(image[0], int) else None,
    )


def count_classes(model: Model) -> int | None:
    """How many scores a network gives each image that classifies; None for one that does something else."""
    shape = model.outputs[0].shape
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1 else None


def _name(options: Options) -> str:
    name = options.name or re.sub(r"[^A-Za-z0-9._-]+", "-", options.model.stem).strip("-._") or "network"
    if not PLAIN_NAME.fullmatch(name):
        raise UsageError(f"`--name {name}` is no name", "letters, digits, `.`, `_` and `-`, a letter or digit first")
    return name


def _look(options: Options, given: source.Given, ask: Ask) -> Looked:
    located = samples.locate(options, ask)
    preprocess = preparing.say_preprocess(options.preprocess)
    if located is None:
        return Looked(None, preprocess, {}, None)
    forced = preparing.force_preprocess(given.declared) if located.format == IMAGES else {}
    names = samples.input_names(located, given.declared, source.IMAGE)
    if preprocess is None:
        preprocess = preparing.ask_preprocess(ask, samples.survey(located, "validation", names, {}, ()))
    both = dict(forced) | dict(preprocess or {})
    return Looked(located, preprocess, forced, samples.survey(located, "validation", names, both, ()))


def _only(found: Survey) -> dict[str, source.Shape]:
    """The shapes of inputs whose samples all have the same."""
    return {name: shapes[0] for name, shapes in found.prepared.items() if len(shapes) == 1}


def _outputs(model: Model, classes: int | None) -> str:
    if classes is not None:
        return f"{classes} classes"
    return "gives " + ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in model.outputs)


def _data(options: Options, looked: Looked, model: Model, classes: int | None) -> DataDraft:
    located = looked.located
    names, known = samples.find_classes(options, located, classes)
    preprocess = None if looked.preprocess is None else looked.prepared
    if located is None:
        return _placeholder(model, DataDraft("", {}, classes=names, classes_known=known, preprocess=looked.preprocess))
    found = {name: _survey(located, name, looked.prepared, model, names, classes) for name in located.paths}
    splits, spare = _splits(options, located, found)
    seen = found["validation"]
    return DataDraft(
        format=located.format, splits=splits, spare=spare, classes=names, classes_known=known,
        preprocess=preprocess, forced=looked.forced, raw=f" ({seen.dtype}, {seen.low:g} to {seen.high:g})",
        count=seen.count, notes=_notes(located, seen),
    )  # fmt: skip


def _placeholder(model: Model, known: DataDraft) -> DataDraft:
    """The section where no data was named: a recipe that is sound but for the paths."""
    inputs = [spec.model_copy(update={"shape": spec.shape[1:]}) for spec in model.inputs]
    images = len(inputs) == 1 and len(inputs[0].shape) == 3
    return replace(
        known,
        format=IMAGES if images else ARRAYS,
        splits={name: SplitDraft(f"{PLACEHOLDER}/{name}") for name in ("calibration", "validation")},
        spare={"training": SplitDraft(f"{PLACEHOLDER}/training", note="for passes that train")},
        forced=preparing.force_preprocess(inputs) if images else {},
        notes=["CHECK: no data was named: write where it is; calibration and validation must share no image"],
    )


def _survey(
    located: Located, split: str, preprocess: Mapping[str, Any], model: Model, names: Sequence[str], classes: int | None
) -> Survey:
    inputs, path = model.inputs, located.paths[split]
    found = samples.survey(located, split, tuple(spec.name for spec in inputs), preprocess, names)
    samples.check_fit(found, inputs, path)
    if classes is not None and found.labels is not None and found.labels >= classes:
        what = f"`{path}` has the label {found.labels}, and the network has classes 0 to {classes - 1}"
        raise DataError(what, "check the labels, or the network's number of classes")
    return found


def _splits(
    options: Options, located: Located, found: Mapping[str, Survey]
) -> tuple[dict[str, SplitDraft], dict[str, SplitDraft]]:
    """The splits of the recipe, and those that are there for whoever wants them."""
    paths = {name: options.relative(path) for name, path in located.paths.items()}
    counted = {name: SplitDraft(paths[name], note=f"{found[name].count:,} samples") for name in paths}
    source_of = "calibration" if "calibration" in paths else "training"
    count = found[source_of].count
    some = CALIBRATION if count > CALIBRATION else None
    calibration = SplitDraft(paths[source_of], some, f"{'of ' if some else ''}{count:,} samples")
    splits = {"calibration": calibration, "validation": counted["validation"]}
    spare: dict[str, SplitDraft] = {}
    for name in ("training", "tuning"):
        if name in counted:
            (spare if name == source_of else splits)[name] = counted[name]
    return splits, spare


def _notes(located: Located, validation: Survey) -> list[str]:
    notes = [f"not used: {', '.join(located.unused)}"] if located.unused else []
    if validation.labels is None:
        notes.append("CHECK: validation has no labels: accuracy cannot be measured, only how many answers change")
    return notes
