"""The table of an evaluation, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {"frame": "Whole frames", "lesion": "Lesions in their surroundings"}


def markdown(result: Mapping[str, Any]) -> str:
    """Every figure with extractor, numbers, interval, and its floor: what the real set gives against itself."""
    n = result["n"]
    sets = f"{n['synthetic']} synthetic cases ({result['synthetic']}), {n['real']} real ({result['real']}, split: {result['split']})."
    lines = ["# Synthetic against real", "", sets, ""]
    lines += [f"- {note}" for note in result["notes"]]
    for kind, title in TITLES.items():
        rows = [f for f in result["figures"] if f["pictures"] == kind]
        if rows:
            lines += ["", f"## {title}", "", "| measure | by | n real, synthetic | value (95 %) | real against itself |"]
            lines += ["|---|---|---|---|---|"]
            lines += [_row(row) for row in rows]
    lines += ["", "## By size of lesion", "", "| size | real | synthetic | KID (95 %) | real against itself |", "|---|---|---|---|---|"]
    for row in result["by_size"]:
        value = _with(row["kid"], row.get("interval"))
        lines.append(f"| {row['size']} | {row['real']} | {row['synthetic']} | {value} | {_number(row.get('floor'))} |")
    if result["masks"]:
        lines += _masks(result["masks"])
    lines += ["", ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> str:
    value = row["note"] or _with(row["value"], row["interval"])
    return f"| {row['measure']} | {row['extractor']} | {row['real']}, {row['made']} | {value} | {_number(row['floor'])} |"


def _masks(masks: Mapping[str, Any]) -> list[str]:
    n = masks["n"]
    lines = ["", f"## Labels ({n['synthetic']} synthetic, {n['real']} real)", ""]
    lines += ["| measure | synthetic | each real one against the others |", "|---|---|---|"]
    lines += [f"| {k} | {_number(v['value'])} | {_number(v['real to other real'])} |" for k, v in masks.items() if k.startswith("sim ")]
    lines += ["", "| of the labels | real | synthetic | Wasserstein distance | Kolmogorov-Smirnov p |", "|---|---|---|---|---|"]
    for name, row in masks["distributions"].items():
        lines.append(f"| {name} | {_number(row['real'])} | {_number(row['made'])} | {_number(row['distance'])} | {row['p']:.2g} |")
    lines += ["", "| | real (95 %) | synthetic (95 %) |", "|---|---|---|"]
    for name, title in (("sharpness", "step across the outline / beside it"), ("agreement", f"IoU with {masks['agreement'].get('judge')}")):
        cells = [_with(part["value"], part["interval"]) if (part := masks[name].get(what)) else "" for what in ("real", "synthetic")]
        lines.append(f"| {title} | {cells[0]} | {cells[1]} |")
    return lines


def _with(value: float | None, interval) -> str:
    if value is None:
        return "too few"
    return _number(value) + (f" ({_number(interval[0])} to {_number(interval[1])})" if interval else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
