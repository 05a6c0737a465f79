"""What is written into a recipe, spelled once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

QUANTIZE = "quantize_int8"

#: what YAML reads as the text that it is, also inside brackets
_PLAIN = re.compile(r"(?!(?i:true|false|null)$)[A-Za-z_/][A-Za-z0-9_./-]*")


def keep_float(names: Iterable[str]) -> str:
    """The option that leaves nodes in float, beside those that it names already."""
    listed = ", ".join(name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in names)
    return f"{QUANTIZE}: {{keep_float: [{listed}]}}"
