"""Tensors out of checkpoint files, without running anything that lies in them.

A pickle may name any function to be called while it is read. So checkpoints are read by torch's restricted unpickler,
which makes tensors and plain containers and nothing else; a file that wants more is refused, and there is no way to
insist. What a file claims to hold is compared with its size first, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from edgeopt.errors import SourceError, TrustError, did_you_mean

PICKLES = (".pt", ".pth", ".th")
RESAVE = "save its state dict alone: `safetensors.torch.save_file(network.state_dict(), path)`"
NAMED = 5
SCANNED_BYTES = 1 << 20


def read_tensors(path: Path, key: str | None = None, strip_prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a state dict read with `weights_only`, on the CPU.

    Args:
        path: the file; its suffix says how it is read.
        key: where in a checkpoint that is a dict of things the state dict lies.
        strip_prefix: taken off the names that begin with it, such as `module.` of a network trained in parallel.

    Raises:
        SourceError: it is no such file, has no `key`, or holds something else than dense tensors.
        TrustError: it is a pickle that wants to run code.
    """
    if key is not None and path.suffix.lower() == ".safetensors" and path.is_file():
        raise SourceError(f"`{path}` has no `{key}`: a safetensors file holds tensors only", "take `key:` away")
    return _strip(_choose(_read(path), key, path), strip_prefix, path)


def find_state_dicts(path: Path) -> dict[str | None, str]:
    """Where in a checkpoint state dicts lie: the `key` of each → what all of its tensor names begin with, as `module.`.

    The key is None where the file is a state dict itself.

    Raises:
        SourceError: it is no checkpoint, or there is none in it.
        TrustError: it is a pickle that wants to run code.
    """
    content = _read(path)
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        inner = content.items() if isinstance(content, Mapping) else ()
        found: dict[str | None, str] = {str(key): _front(value) for key, value in inner if _is_state_dict(value)}
        if found:
            return found
    return {None: _front(_choose(content, None, path))}


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and not any(_flaw(*item) for item in content.items())


def _front(names: Mapping[str, Any]) -> str:
    fronts = {name.partition(".")[0] for name in names if "." in name}
    return f"{fronts.pop()}." if len(fronts) == 1 and all("." in name for name in names) else ""


def _read(path: Path) -> Any:
    """What a checkpoint holds, read by what its suffix says."""
    if not path.is_file():
        raise SourceError(f"there is no file `{path}`", did_you_mean(path.name, _neighbours(path)))
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in PICKLES:
        return _read_pickle(path)
    raise SourceError(f"`{path}` has an unknown suffix `{suffix}`", f"known: .safetensors, {', '.join(PICKLES)}")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise SourceError(f"`{path}` is not a sound safetensors file: {error}", "save or copy it again") from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what a broken pickle raises has no common base
        wanted = _wanted_code(str(error), path)
        if wanted:
            raise TrustError(f"`{path}` wants to run `{wanted}` while it is read: refused", RESAVE) from error
        message = f"`{path}` is not a checkpoint that `torch.save` wrote, or it is damaged"
        raise SourceError(message, "save or copy it again") from error


def _check_zip(path: Path) -> None:
    """Refuse what `torch.save` does not write: programs, compressed members, members larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise SourceError(f"`{path}` is damaged: {error}", "save or copy it again") from error
    names = [member.filename for member in members]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise TrustError(f"`{path}` is a TorchScript program, not a state dict", RESAVE)
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise SourceError(f"`{path}` is a zip file, but not one that `torch.save` wrote", RESAVE)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise SourceError(f"`{path}` has compressed members, which `torch.save` never writes", RESAVE)
    claimed_bytes, size_bytes = sum(member.file_size for member in members), path.stat().st_size
    if claimed_bytes > size_bytes:
        raise SourceError(f"`{path}` claims {claimed_bytes} bytes of content and has {size_bytes}", RESAVE)


def _wanted_code(message: str, path: Path) -> str:
    """What a refused pickle wanted to import; empty if the file is merely broken."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    if named:
        return named[1]
    # torch stops at the first opcode newer than its own, before it meets the name: look for it.
    with path.open("rb") as stream:
        start = stream.read(SCANNED_BYTES)
    return next((name for name in _imports(start) if name.split(".")[0] not in ("torch", "collections")), "")


def _imports(data: bytes) -> Iterator[str]:
    """The globals that a row of pickles names, read off their opcodes."""
    stream, strings = io.BytesIO(data), list[str]()
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except ValueError:  # the end of the data, or no pickle any more
        return


def _choose(content: Any, key: str | None, path: Path) -> dict[str, torch.Tensor]:
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            known = [str(name) for name in content] if isinstance(content, Mapping) else []
            raise SourceError(f"`{path}` has no key `{key}`", did_you_mean(key, known))
        content = content[key]
    if not isinstance(content, Mapping):
        raise SourceError(f"`{path}` holds a {type(content).__name__}, not a state dict", RESAVE)
    flaws = {str(name): flaw for name, value in content.items() if (flaw := _flaw(name, value))}
    if flaws:
        nested = [str(name) for name, value in content.items() if isinstance(value, Mapping) and value]
        named = "; ".join(f"`{name}` {flaw}" for name, flaw in list(flaws.items())[:NAMED])
        more = f"; {len(flaws) - NAMED} more" if len(flaws) > NAMED else ""
        hint = f"say where the state dict lies: `key: {nested[0]}`" if nested else RESAVE
        raise SourceError(f"`{path}` is not a state dict: {named}{more}", hint)
    return dict(content)


def _flaw(name: Any, value: Any) -> str:
    if not isinstance(name, str):
        return "is not a name"
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}"
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        return "is not a plain dense tensor"
    # A stride of 0 lets a tensor of a few bytes claim any number of elements.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "claims more numbers than it stores"
    return ""


def _strip(tensors: dict[str, torch.Tensor], prefix: str, path: Path) -> dict[str, torch.Tensor]:
    if not prefix:
        return tensors
    if not any(name.startswith(prefix) for name in tensors):
        first = next(iter(tensors), "none at all")
        message = f"no tensor of `{path}` begins with `{prefix}`; the first is `{first}`"
        raise SourceError(message, "see `strip_prefix:` in the recipe")
    stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(stripped) < len(tensors):
        raise SourceError(f"without `{prefix}` two tensors of `{path}` have the same name", "leave `strip_prefix:` out")
    return stripped


def _neighbours(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    return [file.name for file in path.parent.iterdir() if file.suffix.lower() in (".safetensors", *PICKLES)]
