"""`edgeopt bundle`: look at what ships, prove that it is whole, make the one file again."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Verify, show or pack a bundle.

    \b
    Example:
      edgeopt bundle verify build/digits/x86/digits.edgeopt
    """


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def verify(bundle: Path) -> None:
    """Check every file of BUNDLE against its manifest.

    BUNDLE is a file or a folder.

    \b
    Example:
      edgeopt bundle verify build/digits/x86/digits.edgeopt
    """
    from edgeopt.bundle.verify import verify_bundle

    found = verify_bundle(bundle)
    click.echo(f"{bundle}: {len(found.manifest.files)} files, all as the manifest says; {found.signature}")
    click.echo(f"sha256 {found.manifest.digest()}")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE is and what was judged of it.

    \b
    Example:
      edgeopt bundle show build/digits/x86/digits.edgeopt
    """
    from edgeopt.bundle.verify import verify_bundle

    manifest = verify_bundle(bundle).manifest
    if as_json:
        click.echo(json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    click.echo(f"{manifest.name} for {manifest.target}: {manifest.candidate}")
    for spec in (*manifest.artifact.inputs, *manifest.artifact.outputs):
        click.echo(f"  {spec.name:20} {spec.dtype} {list(spec.shape)}")
    for name, needed in sorted(manifest.compatible.items()):
        click.echo(f"  needs {name:14} {needed}")
    for file in manifest.files:
        click.echo(f"  {file.path:30} {file.size_bytes:12,} bytes  sha256 {file.sha256[:16]}…")
    for verdict in manifest.verdicts:
        click.echo(f"  {verdict['verdict']:12} {verdict['budget']}: {verdict['sentence']}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def pack(folder: Path, file: Path) -> None:
    """Pack the bundle in FOLDER into one FILE.

    The same bundle gives the same bytes.

    \b
    Example:
      edgeopt bundle pack build/digits/x86/bundle digits.edgeopt
    """
    from edgeopt.bundle.pack import pack_file

    bundle = pack_file(folder, file)
    click.echo(f"{file}: {len(bundle.manifest.files)} files")
