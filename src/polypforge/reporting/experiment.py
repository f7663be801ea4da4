"""Tables and figures of a downstream experiment: Markdown, CSV, LaTeX; dose-response curves and forest plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polypforge.core.files import whole_file, write_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#f0e442")  # Okabe & Ito, told apart by all
COLUMNS = ("network", "size", "test", "arm", "amount", "real", "synthetic", "steps", "runs", "images", "value", "low", "high", "difference",
           "difference_low", "difference_high", "better", "worse", "units", "p")  # fmt: skip


def write_tables(out: Path, results: Mapping[str, Any]) -> None:
    write_text(out / "results.md", markdown(results))
    write_text(out / "results.csv", as_csv(results["rows"]))
    write_text(out / "results.tex", latex(results))


def markdown(results: Mapping[str, Any]) -> str:
    """Title, question, the words, one table for each network and test set, the published rows."""
    lines = [f"# {results['title']}", "", results["question"].strip(), ""]
    lines += [f"- {words}" for words in results["words"]]
    for network, test in _parts(results["rows"]):
        rows = [r for r in results["rows"] if (r["network"], r["test"]) == (network, test)]
        lines += ["", f"## {network}, {test} ({rows[0]['images']} images)", ""]
        measure, against = f"{results['measure']} (95 %) | {results['beside']}", f"against {results['baseline']} (95 %)"
        lines += [f"| labelled | arm | synthetic | steps | runs | {measure} | {against} | better | p |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        for row in rows:
            counts = f"| {row['size'] or 'all'} | {_arm(row)} | {row['synthetic']} | {row['steps']} | {row['runs']} "
            lines.append(f"{counts}| {_value(row)} | {100 * row['beside']['value']:.1f} | {_difference(row)} |")
    if results["published"]:
        keys = list(dict.fromkeys(k for row in results["published"] for k in row))
        lines += [
            "",
            "## Published, on other data and with other weights: for orientation",
            "",
            f"| {' | '.join(keys)} |",
            "|---" * len(keys) + "|",
        ]
        lines += [f"| {' | '.join(str(row.get(k, '')) for k in keys)} |" for row in results["published"]]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    lines += ["", f"{results['trainings']} trainings; {versions}.", ""]
    return "\n".join(lines)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row.get("difference_interval") or ("", "")
        ends = dict(zip(("low", "high"), row["interval"] or ("", ""), strict=True)) | {"difference_low": low, "difference_high": high}
        writer.writerow({**row, **ends})
    return text.getvalue()


def latex(results: Mapping[str, Any]) -> str:
    """One booktabs table."""
    head = r"\begin{tabular}{llrlrrr}" + "\n" + r"\toprule" + "\n"
    head += f"test & network & cases & arm & {results['measure']} & difference & $p$ " + r"\\" + "\n" + r"\midrule" + "\n"
    lines = []
    for row in results["rows"]:
        told = "--- & ---"
        if "difference" in row:
            interval = "[{:+.1f}, {:+.1f}]".format(*(100 * v for v in row["difference_interval"])) if row["difference_interval"] else ""
            told = f"${100 * row['difference']:+.1f}$ {interval} & {row['p']:.2f}"
        cells = [row["test"], row["network"], str(row["size"] or "all"), _arm(row), f"{100 * row['value']:.1f}"]
        lines.append(" & ".join(_escaped(c) for c in cells) + f" & {told} " + r"\\")
    return head + "\n".join(lines) + "\n" + r"\bottomrule" + "\n" + r"\end{tabular}" + "\n"


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    return text


def _parts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["network"], r["test"]) for r in rows))


def _arm(row: Mapping[str, Any]) -> str:
    return row["arm"] if row["amount"] is None else f"{row['arm']} {row['amount']:g}"


def _value(row: Mapping[str, Any]) -> str:
    value = f"{100 * row['value']:.1f}"
    return value + " ({:.1f} to {:.1f})".format(*(100 * v for v in row["interval"])) if row["interval"] else value


def _difference(row: Mapping[str, Any]) -> str:
    if "difference" not in row:
        return "| | "
    interval = " ({:+.1f} to {:+.1f})".format(*(100 * v for v in row["difference_interval"])) if row["difference_interval"] else ""
    return f"{100 * row['difference']:+.1f}{interval} | {row['better']} of {row['units']} | {row['p']:.2f}"


def write_figures(out: Path, results: Mapping[str, Any]) -> None:
    """dose.png: the measure against the number of labelled cases, or of the amount where only that varies. forest.png: differences."""
    rows = results["rows"]
    with rc_context({"text.parse_math": False}):  # names are names, whatever $ and _ they have
        if len({r["size"] for r in rows}) > 1 or len({r["amount"] for r in rows if r["amount"] is not None}) > 1:
            _save(dose_response(results), out / "dose.png")
        if any("difference" in r for r in rows):
            _save(forest(results), out / "forest.png")


def dose_response(results: Mapping[str, Any]) -> Figure:
    rows = results["rows"]
    by_size = len({r["size"] for r in rows}) > 1
    parts = _parts(rows)
    figure = Figure(figsize=(5.2 * len(parts), 4.2), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for panel, (network, test) in zip(panels, parts, strict=True):
        mine = [r for r in rows if (r["network"], r["test"]) == (network, test)]
        everything = max(r["real"] for r in mine)  # behind size 0, also of arms that learn from a part of it or none
        lines = list(dict.fromkeys(_arm(r) if by_size else r["arm"] for r in mine))
        for k, line in enumerate(lines):
            points = [r for r in mine if (_arm(r) if by_size else r["arm"]) == line]
            xs = [(r["size"] or everything) if by_size else (r["amount"] or 0) for r in points]
            shift = 1 + 0.02 * (k - len(lines) / 2) if by_size else 1
            values = [100 * r["value"] for r in points]
            spans = [r["interval"] or (r["value"], r["value"]) for r in points]
            ends = [[100 * abs(r["value"] - span[side]) for r, span in zip(points, spans, strict=True)] for side in (0, 1)]
            colour = COLOURS[k % len(COLOURS)]
            panel.errorbar(
                [x * shift for x in xs], values, ends, color=colour, marker="o", capsize=3, label=line, linewidth=1.6, elinewidth=0.8
            )
        if by_size:
            panel.set_xscale("log", base=2)
            sizes = sorted({r["size"] or everything for r in mine})
            panel.set_xticks(sizes, [str(s) for s in sizes])
        panel.set_title(f"{network}, {test}, n={mine[0]['images']}", fontsize=10)
        panel.set_xlabel("labelled cases" if by_size else "synthetic cases (amount)")
        panel.set_ylabel(f"{results['measure']} in points, 95 %")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=8)
    return figure


def forest(results: Mapping[str, Any]) -> Figure:
    rows = [r for r in results["rows"] if "difference" in r]
    figure = Figure(figsize=(8.4, 1.2 + 0.3 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for y, row in enumerate(reversed(rows)):
        low, high = (100 * v for v in row["difference_interval"] or (float("nan"), float("nan")))
        colour = COLOURS[2] if low > 0 else COLOURS[1] if high < 0 else COLOURS[6]
        panel.plot([low, high], [y, y], color=colour, linewidth=1.8)
        panel.plot([100 * row["difference"]], [y], "o", color=colour, markersize=5)
    panel.axvline(0, color="#888", linewidth=0.8)
    several = len({r["network"] for r in rows}) > 1
    names = [f"{r['test']} · {r['network'] + ' · ' if several else ''}{r['size'] or 'all'} · {_arm(r)}" for r in reversed(rows)]
    panel.set_yticks(range(len(rows)), names, fontsize=8)
    panel.set_ylim(-0.7, len(rows) - 0.3)
    panel.set_xlabel(f"{results['measure']} points over {results['baseline']} (95 %)")
    panel.grid(axis="x", alpha=0.25)
    return figure


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", metadata={"Software": None})
