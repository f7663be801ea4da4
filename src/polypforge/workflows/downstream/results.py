"""What the trainings of a plan show, as figures, tables and words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.files import read_json, write_json
from polypforge.evaluation.comparison import Comparison, compare
from polypforge.evaluation.plan import Cell, Plan
from polypforge.evaluation.tasks import task_of
from polypforge.models.locate import public_name
from polypforge.reporting.experiment import write_figures, write_tables

MANY = 6  # comparisons, from which on chance is told of


@dataclass
class Results:
    """cells: those that count, and their files. chosen: the amounts that validation chose. shared: for each size, the part of the labelled
    cases that a draw takes."""

    plan: Plan
    cells: Mapping[Cell, Path]
    chosen: Mapping[tuple[str, int, str], float]
    out: Path
    shared: Mapping[int, float] = field(default_factory=dict)


def write_results(results: Results) -> dict[str, Any]:
    """results.json, results.md, results.csv, results.tex and figures in the run folder; returns what results.json holds."""
    plan = results.plan
    rows = result_rows(results)
    found = {
        "title": plan.title,
        "question": plan.question,
        "task": plan.task,
        "measure": task_of(plan.task).MAIN,
        "beside": task_of(plan.task).BESIDE,
        "baseline": plan.baseline,
        "words": words(rows, plan),
        "rows": rows,
        "chosen": [{"network": n, "size": s, "arm": a, "amount": amount} for (n, s, a), amount in results.chosen.items()],
        "published": [dict(row) for row in plan.published],
        "trainings": len(results.cells),
        "versions": _versions(results),
        "plan": asdict(_without_paths(plan)),
        "out": str(results.out),
    }
    write_json(results.out / "results.json", found)
    write_tables(results.out, found)
    write_figures(results.out, found)
    return found


def _without_paths(plan: Plan) -> Plan:
    told = {k: replace(s, folder=public_name(s.folder), model=public_name(s.model)) for k, s in plan.supplies.items()}
    return replace(plan, supplies=told)


def _versions(results: Results) -> dict[str, str]:
    """Of all that trained: several where a run was resumed with others."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in results.cells.values():
        for name, version in read_json(file).get("versions", {}).items():
            found[name].add(version)
    return {name: " and ".join(sorted(each)) for name, each in found.items()}


def result_rows(results: Results) -> list[dict[str, Any]]:
    """One row for each network, size, test set, arm and amount, compared with the baseline of the same network, size and runs."""
    task = task_of(results.plan.task)
    runs: dict[tuple, dict[tuple[int, int], dict[str, Any]]] = defaultdict(dict)
    for cell, file in results.cells.items():
        stored = read_json(file)
        amount = results.plan.amount_of(cell)
        for test, scores in stored["tests"].items():
            runs[cell.network, cell.size, test, cell.arm, amount][cell.draw, cell.seed] = {"scores": scores, **stored}
    rows = []
    for (network, size, test, arm, amount), found in sorted(runs.items(), key=lambda item: _order(results.plan, item[0])):
        keys = sorted(found)
        scores = [found[k]["scores"] for k in keys]
        groups, draws = [row["group"] for row in scores[0]], [draw for draw, _ in keys]
        statistic = task.statistic(scores)
        told = task.summary(scores)
        contrast = partial(compare, groups=groups, draws=draws, witnesses=task.witnesses(scores[0]), shared=results.shared.get(size, 0.0))
        level = contrast(statistic, partial(_nothing, len(keys)))
        row: dict[str, Any] = {
            "network": network, "size": size, "test": test, "arm": arm, "amount": amount, "runs": len(keys), "images": len(groups),
            "real": found[keys[0]]["real"], "synthetic": found[keys[0]]["synthetic"], "steps": found[keys[0]]["steps"],
            "value": level.difference, "interval": level.interval if level.tells else None,
            "measures": told, "beside": task.beside(told),
        }  # fmt: skip
        base = runs.get((network, size, test, results.plan.baseline, None), {})
        if arm != results.plan.baseline and set(keys) <= set(base):
            against = task.statistic([base[k]["scores"] for k in keys])
            row |= _told(contrast(statistic, against))
        rows.append(row)
    return rows


def _told(comparison: Comparison) -> dict[str, Any]:
    found = comparison.to_json()
    kept = {k: found[k] for k in ("difference", "better", "worse", "units", "p", "by_draw")}
    return kept | {"difference_interval": comparison.interval if comparison.tells else None, "verdict": comparison.verdict}


def _nothing(runs: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros(runs)


def _order(plan: Plan, key: tuple) -> tuple:
    network, size, test, arm, amount = key
    return list(plan.networks).index(network), size or 10**9, test, list(plan.arms).index(arm), amount or 0.0


def words(rows: Sequence[Mapping[str, Any]], plan: Plan) -> list[str]:
    """The outcome of each comparison, and what so many of them are worth."""
    told = [row for row in rows if row.get("difference_interval")]
    found = [sentence(row, plan) for row in rows if "difference" in row]
    if len(told) >= MANY:
        found.append(
            f"These are {len(told)} comparisons, many with the same runs of {plan.baseline}: were there no difference anywhere, "
            f"about {max(1, round(len(told) / 20))} of them would say so by chance, and not independently."
        )
    return found


def sentence(row: Mapping[str, Any], plan: Plan) -> str:
    """The outcome of one comparison, for people."""
    amount = "" if row["amount"] is None else f" ({row['amount']:g})"
    cases = f"{row['real']} labelled cases" if row["real"] else f"none of the {row['size'] or 'real'} cases"
    outcome = f"{row['arm']}{amount} {row['verdict']} with {cases} ({row['network']}, {row['test']})"
    points = f"{100 * row['difference']:+.1f} points of {task_of(plan.task).MAIN} over {plan.baseline}"
    if not row["difference_interval"]:
        return f"{outcome}: {points}."
    low, high = (100 * v for v in row["difference_interval"])
    counted = "draws" if len(row["by_draw"]) > 1 else "runs"
    votes = f"better in {row['better']} of {row['units']} {counted}, sign test p = {row['p']:.2f}"
    return f"{outcome}: {points} (95 %: {low:+.1f} to {high:+.1f}; {votes})."
