"""`edgeopt device run`: what the active release says of images in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.device import home_option, json_option

if TYPE_CHECKING:
    from edgeopt.device.run import Answer


@click.command()
@click.option("--images", required=True, type=click.Path(path_type=Path), help="A folder, with all below it.")
@click.option("--top", default=1, show_default=True, type=click.IntRange(min=1), help="How many classes to name.")
@home_option
@json_option
def command(images: Path, top: int, folder: Path, as_json: bool) -> None:
    """Tell what the active release says of each image.

    One line for each, with `--json` as an object. An image that cannot be read is named on stderr, the others are
    answered all the same, and the exit code is 2.

    \b
    Example:
      edgeopt device run --images photos/ --top 3
    """
    import edgeopt.device
    from edgeopt.device.home import Home
    from edgeopt.device.run import answer_images, find_images
    from edgeopt.errors import DataError

    paths, failed = find_images(images), 0
    with edgeopt.device.load(Home(folder).folder) as predictor:
        for answer in answer_images(predictor, paths, top):
            failed += answer.prediction is None
            if answer.prediction is None:
                click.echo(f"not answered: {answer.fault}", err=True)
            if as_json or answer.prediction is not None:
                click.echo(_json(answer) if as_json else _line(answer))
    if failed:
        raise DataError(f"{failed} of {len(paths)} files could not be answered", "each is named above, with its fault")


def _line(answer: Answer) -> str:
    assert answer.prediction is not None
    if not answer.prediction.top:
        shapes = (f"{name} {list(array.shape)}" for name, array in answer.prediction.outputs.items())
        return f"{answer.path}  {', '.join(shapes)}"
    return f"{answer.path}  {', '.join(f'{one.label} {one.score:.4f}' for one in answer.prediction.top)}"


def _json(answer: Answer) -> str:
    told = {"error": answer.fault} if answer.prediction is None else answer.prediction.to_plain()
    return json.dumps({"image": str(answer.path), **told}, ensure_ascii=False)
