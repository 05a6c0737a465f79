"""What there is to tell of a pruning: what is left, what each group lost and bought, and what was left whole.

Facts named `group …` are the rows of a table, and the fact `group` names its columns: a report shows them as one.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.pruning.course import Course, Round
from edgeopt.pruning.groups import Group

Facts = dict[str, str | int | float]

#: names that the summary lists
LISTED = 3

#: between the columns of a row
COLUMNS = " · "

#: what a goal is called in a table
TITLES = {"latency_ms": "latency", "bytes": "size", "macs": "MACs"}


def tell_rounds(course: Course, rounds: Sequence[Round], before: tuple[int, int], after: tuple[int, int]) -> Facts:
    """The facts of all rounds; `before` and `after` are multiply-accumulates and parameters."""
    last = rounds[-1]
    kept = _count_kept(course.groups, rounds)
    dropped = [group.name for group in course.groups if group.silenced and not kept[group.name]]
    pruned = [group.name for group in course.groups if not group.silenced and kept[group.name] < group.size]
    left_whole = {name: why for name, why in last.left_whole.items() if name not in pruned}
    summary = f"{before[0] / 1e6:.3g} → {after[0] / 1e6:.3g} MMACs; {_tell_groups(len(pruned), list(left_whole))}"
    facts: Facts = {
        "macs_before": before[0], "macs_after": after[0], "parameters_before": before[1], "parameters_after": after[1],
        "groups_pruned": len(pruned), "groups_left_whole": len(left_whole),
        "left_whole": "; ".join(f"{name}: {why}" for name, why in left_whole.items()),
    }  # fmt: skip
    if dropped:
        facts["blocks_dropped"] = ", ".join(dropped)
        summary += f"; without the branch{'es' * (len(dropped) > 1)} of {', '.join(dropped)}"
    if len(rounds) > 1:
        facts["rounds"] = len(rounds)
    if last.by_l2:
        facts["weighed_by_l2"] = ", ".join(last.by_l2)
    if course.aims.goal is not None:
        reached = _tell_goal(course, last)
        summary = f"{reached['reached']}; {summary}"
        facts |= reached
    return {**facts, **_tell_each_group(course, rounds[0], kept), "summary": summary}


def _count_kept(groups: Sequence[Group], rounds: Sequence[Round]) -> dict[str, int]:
    """Of each group how many channels stayed; none where all of its layers went with branches.

    In later rounds a group is called after another of its layers where the first went.
    """
    last = {name: count for each in rounds for name, count in each.kept.items()}
    dropped = [group for group in groups if group.silenced and not last[group.name]]
    kept = {}
    for group in groups:
        left = [name for name in group.layers or (group.name,) if not any(block.holds(name) for block in dropped)]
        counts = [each.kept[name] for each in rounds for name in left if name in each.kept]
        kept[group.name] = (counts or [last[group.name]])[-1] if left else 0
    return kept


def _tell_goal(course: Course, last: Round) -> Facts:
    assert course.aims.goal is not None
    (kind, value), stick = course.aims.goal, course.yardstick
    share = last.predicted if last.measured is None else last.measured
    how = "" if last.measured is None else f", {last.predicted:.2f}× foreseen"
    facts: Facts = {
        "goal": f"{kind} {value:g}",
        "predicted": round(last.predicted, 4),
        "divergence": round(last.loss, 4),
    }
    if last.measured is not None:
        facts["measured"] = round(last.measured, 4)
    title = TITLES.get(kind, kind)
    return facts | {"reached": f"{title} {share:.2f}×{stick.place} ({stick.show(1)} → {stick.show(share)}{how})"}


def _tell_each_group(course: Course, first: Round, kept: dict[str, int]) -> Facts:
    """A row for each group: its channels, what their going buys alone, and its curve."""
    kind = "macs" if course.aims.goal is None else course.aims.goal[0]
    columns = ["channels", f"{TITLES.get(kind, kind)} saved alone"]
    if first.curves:
        columns.append(
            f"divergence without {', '.join(f'{100 * share:.0f}' for share in first.shares)} %, or the branch"
        )
    facts: Facts = {"group": COLUMNS.join(columns)}
    saved = course.savings(kept)
    for group in course.groups:
        count = f"{group.size} → {kept[group.name]}"
        if group.silenced:
            count = "branch stays" if kept[group.name] else "branch dropped"
        cells = [count, f"{100 * saved[group.name]:.1f} %"]
        if group.name in first.curves:
            cells.append(" ".join(f"{loss:.2g}" for loss in first.curves[group.name]))
        facts[f"group {group.name}"] = COLUMNS.join(cells)
    return facts


def _tell_groups(pruned: int, left_whole: list[str]) -> str:
    if not left_whole:
        return f"{pruned} group{'s' * (pruned != 1)}, none left whole"
    more = f" and {len(left_whole) - LISTED} more" if len(left_whole) > LISTED else ""
    count = f"{len(left_whole)} group{'s' * (len(left_whole) != 1)}"
    return f"{count} left whole: {', '.join(left_whole[:LISTED])}{more}"
