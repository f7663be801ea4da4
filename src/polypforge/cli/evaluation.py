"""`polypforge evaluate`, `downstream` and `bench`: how good, does it help, how fast?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from polypforge.cli.options import BatchSize, Device, Engine, JsonOut, Layout, Offline, SkipBad, Workers, emit


def bench(
    out: Annotated[Path, typer.Option(help="Folder for the table, the figures and the curves. The same command resumes.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="sampling, sampling_inpaint, sampling_ddpm, training, training_ddpm, loading, gating, proposals, measures or growth; "
            "may be repeated."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each side runs.")] = 5,
    side: Annotated[int, typer.Option(help="Side of the phantom frames in pixels.")] = 256,
    model: Annotated[str, typer.Option(help="Weights of forge: a run folder, a saved folder, or starter:forge.")] = "starter:forge",
    batch_size: BatchSize = 16,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """How fast is it here? Ours against the usual alternative, with the same weights, in one process; and how cost grows."""
    from polypforge.workflows.bench import bench as run

    result = run(out, only or (), rounds=rounds, side_px=side, batch_size=batch_size, model=model, device=device, offline=offline)
    emit(result, as_json, (out / "bench.md").read_text(encoding="utf-8") + f"\n{out / 'bench.md'}")


def downstream(
    train: Annotated[Path, typer.Option(help="Labelled real cases; its own test split, if it has one, is tested on.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment. The same command resumes it.")],
    plan: Annotated[
        str | None, typer.Argument(help="A shipped plan (fair ...) or a YAML file; without one: real cases with and without --synthetic.")
    ] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Synthetic pairs of any maker: the supply `given` of the plan.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="Other real cases to test on; may be repeated.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value of the plan: sizes=[16,32]; may be repeated.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trainings at a time; default: one for each GPU, or for each core.")] = None,
    layout: Annotated[str, typer.Option(help="Layout of --train; that of other folders is found out.")] = "auto",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Does it help? Train segmenters or detectors with and without synthetic cases and compare them on real ones."""
    from polypforge.core.errors import UserError
    from polypforge.evaluation.plan import supplies_of
    from polypforge.workflows.downstream.experiment import downstream as run

    if plan is None and synthetic is None:
        raise UserError("give a plan (polypforge downstream fair ...) or --synthetic FOLDER.")
    if plan == "compare" and synthetic is None:
        raise UserError("the plan compare needs --synthetic FOLDER.")
    if plan not in (None, "compare") and synthetic is not None and "given" not in supplies_of(plan):
        raise UserError(f"plan {plan} has no supply `given` that --synthetic could fill: leave the plan out, or write one.")
    given = [f"supplies.given.folder={json.dumps(str(synthetic))}"] if synthetic else []
    result = run(
        plan or "compare", train, out, tests=test or (), assignments=[*given, *(set_ or ())], layout=layout, workers=workers,
        skip_bad=skip_bad, device=device, offline=offline,
    )  # fmt: skip
    emit(result, as_json, "\n".join([*result["words"], f"{result['out']}/results.md"]))


def evaluate(
    real: Annotated[Path, typer.Argument(help="Real cases.")],
    synthetic: Annotated[Path, typer.Argument(help="Synthetic cases of any maker.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and kept features. The same command resumes.")],
    extractor: Annotated[
        list[str] | None,
        typer.Option(help="Image features: starter:encoder, random_vgg, fid_inception[:FILE], a DINOv2 or CLIP; may be repeated."),
    ] = None,
    judge: Annotated[str, typer.Option(help="Segmenter that labels are compared with; '' for none.")] = "starter:window_segmenter",
    perceptual: Annotated[str, typer.Option(help="Network of LPIPS: vgg16:FILE for the published measure.")] = "random_vgg",
    split: Annotated[str, typer.Option(help="Compare with this split of the real cases alone.")] = "",
    engine: Engine = "local",
    workers: Workers = None,
    layout: Layout = "auto",
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """How close synthetic pictures and labels come to real ones: every figure with its extractor, numbers and interval."""
    from polypforge.workflows.evaluate import DEFAULT_EXTRACTORS
    from polypforge.workflows.evaluate import evaluate as run

    result = run(
        real, synthetic, out, extractors=extractor or DEFAULT_EXTRACTORS, judge=judge, perceptual=perceptual, split=split, layout=layout,
        engine=engine, workers=workers, device=device, offline=offline,
    )  # fmt: skip
    emit(result, as_json, (Path(result["out"]) / "evaluation.md").read_text(encoding="utf-8").rstrip())
