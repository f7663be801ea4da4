"""What `polypforge bench` found: a table of ratios and the curves of growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polypforge.core.files import whole_file
from polypforge.reporting.experiment import COLOURS


def markdown(result: Mapping[str, Any]) -> str:
    """One table; a ratio says how many times as long the alternative takes as ours, in the same process."""
    settings, speed = result["settings"], result["convolution_tflops"]
    where = f"{settings['device']}, {settings['cores']} cores, {settings['threads']} threads"
    lines = [
        "# Ours against the usual alternative",
        "",
        f"{where}; a 3x3 convolution reaches {speed} TFLOP/s here; {settings['rounds']} rounds, in turns.",
        "",
        "| one item | by | seconds | times ours (95 %) | TFLOP/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["interval"]) if "ratio" in row else "ours"
        rate = f"{row['tflops']:.3f} ({row['tflops'] / speed:.0%})" if "tflops" in row else ""
        lines.append(f"| {row['what']} | {row['side']} | {row['seconds']:.4g} | {ratio} | {rate} |")
    notes = dict.fromkeys(f"{row['contest']}: {row['note']}." for row in result["rows"] if row["note"])
    lines += ["", *(f"- {note}" for note in notes)]
    for curve in result["growth"]:
        lines += ["", f"| {curve['axis']} | {' | '.join(str(x) for x in curve['x'])} |", "|---" * (len(curve["x"]) + 1) + "|"]
        lines.append(f"| {curve['title']} | {' | '.join(f'{np.median(s):.3g}' for s in curve['seconds'])} |")
    held = ", ".join(f"{where} {size} GB" for where, size in result["peak_memory_gb"].items())
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return "\n".join([*lines, "", f"Most memory held: {held}. {versions}.", ""])


def growth_figure(path: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """One panel a curve: the median, and the range of the repetitions."""
    figure = Figure(figsize=(3.4 * len(curves), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, curve, colour in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, COLOURS, strict=False):
        middle, low, high = (np.array([f(s) for s in curve["seconds"]]) for f in (np.median, np.min, np.max))
        axes.errorbar(curve["x"], middle, (middle - low, high - middle), marker="o", color=colour, capsize=3)
        axes.set_xticks(curve["x"], [str(x) for x in curve["x"]])
        axes.set_ylim(0)
        axes.set_xlabel(curve["axis"])
        axes.set_title(curve["title"], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
