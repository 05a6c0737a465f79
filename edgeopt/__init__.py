"""edgeopt makes a trained CNN small and fast for edge devices, proves it beside the original, and packs what won.

    import edgeopt
    recipe = edgeopt.load_recipe("recipes/digits.yaml")
    plan = edgeopt.make_plan(recipe)
    report = edgeopt.run_plan(plan)
    print(report.verdict, report.exit_code)

The names below are loaded when they are first used, so that importing edgeopt costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeopt.pipeline import run_plan
    from edgeopt.plan import make_plan
    from edgeopt.recipe import load_recipe

__all__ = ["load_recipe", "make_plan", "run_plan"]

_HOMES = {"load_recipe": "edgeopt.recipe", "make_plan": "edgeopt.plan", "run_plan": "edgeopt.pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeopt' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
