"""`polypforge gate`, `audit`: what may leave, and why the rest may not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polypforge.cli.options import (
    Device,
    Engine,
    GateFile,
    JsonOut,
    Judges,
    Layout,
    Offline,
    SkipBad,
    Thresholds,
    Workers,
    emit,
    thresholds,
)


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
    engine: Engine = "local",
    workers: Workers = None,
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
        explain=explain or (), refine=refine, soft_labels=soft_labels, layout=layout, skip_bad=skip_bad, engine=engine, workers=workers,
        device=device, offline=offline,
    )  # fmt: skip
    emit(result, as_json, _gate_text(result))


def audit(
    synthetic: Annotated[Path, typer.Argument(help="The synthetic cases: a folder of this tool, or any folder of images and masks.")],
    train: Annotated[Path, typer.Option(help="The real cases that the model learned from and worked on.")],
    heldout: Annotated[
        Path | None, typer.Option(help="Real cases that nothing learned from; default: the test split of --train, if it has one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Also attack this model: can its errors tell what it learned from?")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: audit/ in a set of this tool, else FOLDER-audit/.")
    ] = None,
    false_positives: Annotated[float, typer.Option(help="Share of unrelated real pictures that may be called copies.")] = 0.01,
    keep: Annotated[bool, typer.Option("--keep", help="Only name copies; leave them in the set.")] = False,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Find copies of training images and lesions, and what else the set or the model gives away. Copies leave the set."""
    from polypforge.workflows.audit import audit as run

    result = run(
        synthetic, train, heldout=heldout, model=model, out=out, false_positives=false_positives, keep=keep, layout=layout,
        skip_bad=skip_bad, device=device, offline=offline,
    )  # fmt: skip
    emit(result, as_json, _audit_text(result))


def _audit_text(result: dict[str, Any]) -> str:
    low, high = result["interval"]
    lines = [f"{len(result['copied'])} copies among {result['synthetic']} cases (95 %: {low:.1%}-{high:.1%}); {result['removed']} left out"]
    if result["left_out"]:
        lines.append(f"Not compared with: {', '.join(f'{n} x {why}' for why, n in result['left_out'].items())}")
    for kind, found in result["false_positives"].items():
        low, high = found["interval"]
        lines.append(
            f"{kind}: copied means a correlation above {result['thresholds'][kind]:.2f}; of {found['n']} held-out real {kind}s "
            f"{found['share']:.1%} lie above it (95 %: {low:.1%}-{high:.1%})"
        )
    near = result["set"]
    if near:
        c_t = f"C_T {near['c_t']:.1f} over {near['cells']} cells (below -3: copies)" if near["c_t"] is not None else "no C_T"
        low, high = near["authenticity_interval"]
        lines.append(f"set: {c_t}; authentic {near['authenticity']:.0%} (95 %: {low:.0%}-{high:.0%}; {near['encoder']})")
    attack = result["membership"]
    if attack:
        low, high = attack["interval"]
        lines.append(
            f"membership attack: AUC {attack['auc']:.2f} (95 %: {low:.2f}-{high:.2f}; n={attack['members']} and {attack['others']}), "
            f"{attack['at_1_percent']:.1%} found at 1 % false positives"
        )
    return "\n".join([*lines, str(Path(result["out"]) / "closest.png")])


def _gate_text(result: dict[str, Any]) -> str:
    """What a person wants to know of a gate's result."""
    low, high = result["interval"]
    share = result["kept"] / max(1, result["judged"])
    lines = [f"{result['kept']} kept of {result['judged']}: {share:.0%} (95 %: {low:.0%}-{high:.0%})"]
    real = result["real"]
    if real and real["n"]:
        low, high = real["interval"]
        alone = "" if real["label_passed"] is None else f", the label gate alone {real['label_passed'] / real['n']:.0%}"
        lines.append(
            f"Of {real['n']} held-out real lesions {real['passed'] / real['n']:.0%} would pass (95 %: {low:.0%}-{high:.0%}){alone}."
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
