"""`polypforge gate`: what may leave, and why the rest may not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polypforge.cli.options import Device, GateFile, JsonOut, Judges, Layout, Offline, SkipBad, Thresholds, emit, thresholds


def gate(
    folder: Annotated[Path, typer.Argument(help="A folder that `generate` wrote.")],
    data: Annotated[
        Path | None, typer.Option(help="The real cases, for thresholds and comparison; default: those that `generate` worked on.")
    ] = None,
    gates: GateFile = "starter",
    judge: Judges = None,
    detector: Annotated[list[str] | None, typer.Option(help="A detector in place of the file's; may be repeated.")] = None,
    threshold: Thresholds = None,
    explain: Annotated[list[str] | None, typer.Option(help="Draw a figure of this case (an id), or of `all` rejected ones.")] = None,
    refine: Annotated[bool, typer.Option("--refine", help="Also write labels moved to where all judges see the boundary.")] = False,
    soft_labels: Annotated[bool, typer.Option("--soft-labels", help="Also write lesion probabilities.")] = False,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Judge generated cases: a verdict with reason and scores for each, in gate.jsonl; rejected ones leave metadata.jsonl.

    Scores are kept: judging again with other thresholds computes nothing anew.
    """
    from polypforge.workflows.gate import gate_folder as run

    result = run(
        folder, data=data, gates=gates, judges=judge or (), detectors=detector or (), thresholds=thresholds(threshold),
        explain=explain or (), refine=refine, soft_labels=soft_labels, layout=layout, skip_bad=skip_bad, device=device, offline=offline,
    )  # fmt: skip
    emit(result, as_json, _gate_text(result))


def _gate_text(result: dict[str, Any]) -> str:
    """What a person wants to know of a gate's result."""
    low, high = result["interval"]
    share = result["kept"] / max(1, result["judged"])
    lines = [f"{result['kept']} kept of {result['judged']}: {share:.0%} (95 %: {low:.0%}-{high:.0%})"]
    real = result["real"]
    if real and real["n"]:
        low, high = real["interval"]
        lines.append(
            f"Of {real['n']} held-out real lesions {real['passed'] / real['n']:.0%} would pass (95 %: {low:.0%}-{high:.0%}), "
            f"the label gate alone {real['label_passed'] / real['n']:.0%}."
        )
    critic = result["set"].get("critic")
    if critic:
        low, high = critic["interval"]
        lines.append(
            f"A critic tells kept from real lesions with AUC {critic['auc']:.2f} (95 %: {low:.2f}-{high:.2f}; n={critic['synthetic']} and "
            f"{critic['real']}; {critic['features']}); 0.5 would be blind."
        )
    if "vendi" in result["set"]:
        without = result["set"].get("vendi with repetitions")
        more = f", {without:.1f} with the {result['set']['repetitions left out']} repetitions" if without else ""
        lines.append(
            f"Variety: Vendi score {result['set']['vendi']:.1f}{more} ({result['set']['encoder']}); "
            f"MS-SSIM of pairs {result['set']['ms_ssim']:.3f}."
        )
    lines += [f"{count:6d}  {reason}" for reason, count in result["reasons"].items()]
    return "\n".join(lines + result.get("figures", []))
