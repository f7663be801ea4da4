"""`polypforge data ...`: check, import, split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polypforge.cli.options import Device, JsonOut, Layout, Offline, SkipBad, emit

app = typer.Typer(no_args_is_help=True, help="Check, import, split and mask data sets.")
EMPTY_NAMED = 3
DataArgument = Annotated[Path, typer.Argument(help="Folder with the data.")]


@app.command()
def check(
    data: DataArgument,
    layout: Layout = "auto",
    overlays: Annotated[Path | None, typer.Option(help="Write one picture a case here: label, field of view, burnt-in text.")] = None,
    as_json: JsonOut = False,
) -> None:
    """Report what is wrong or remarkable, file by file. Exit code 1 when some files can't be used."""
    from polypforge.workflows.data import check_data

    report = check_data(data, layout, overlays)
    told = [f for f in report.findings if f.severity != "note"]
    empty = [f for f in told if f.kind == "empty-mask"]  # one is worth a look; of many, each is a frame without lesion
    told = [f for f in told if f.kind != "empty-mask" or len(empty) <= EMPTY_NAMED]
    lines = [f"{f.severity:8s}{f.kind:16s} {f.message}" for f in told]
    if len(empty) > EMPTY_NAMED:
        lines.append(f"{'warning':8s}{'empty-mask':16s} {len(empty)} masks are empty: those cases count as normal (--json names them).")
    counts = [f"{n:6d}  {kind}" for kind, n in report.counts().items()]
    emit(report.to_json(), as_json, "\n".join([*lines, f"{len(report.usable)} of {report.total} cases can be used", *counts]))
    if any(f.severity == "error" for f in report.findings):
        raise typer.Exit(1)


@app.command("import")
def import_(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the new data set.")],
    layout: Annotated[str, typer.Option(help="auto, pairs, normal, kvasir-boxes, coco, yolo, ldpolypvideo, refuge2, neopolyp.")] = "auto",
    skip_bad: SkipBad = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--class", help="Of several classes (refuge2: disc, cup; of boxes: their name or number) the one that counts as a lesion."
        ),
    ] = None,
    deidentify: Annotated[
        str | None, typer.Option(help="Take burnt-in text and inset boxes out of the pixels: inpaint or mask. Look at the result.")
    ] = None,
    as_json: JsonOut = False,
) -> None:
    """Turn published or home-made layouts into a data-set folder (images/, masks/, metadata.jsonl), without file metadata."""
    from polypforge.workflows.data import import_data

    result = import_data(data, out, layout, skip_bad, deidentify, only)
    changed = f"; text or inset taken out of {result['deidentified']}" if deidentify else ""
    emit(result, as_json, f"{result['cases']} cases in {out} (layout: {result['layout']}, left out: {result['left_out']}{changed})")


@app.command()
def split(
    data: DataArgument,
    shares: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.7,0.15,0.15",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Another seed draws another split.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write train.txt, val.txt and test.txt here; default: the data-set folder's metadata.")
    ] = None,
    layout: Layout = "auto",
    as_json: JsonOut = False,
) -> None:
    """Divide by group and near-duplicate. Splits given earlier stay, also when files are added."""
    from polypforge.workflows.data import split_data

    result = split_data(data, shares, seed, out, layout)
    named = ", ".join(result["left_out"][:8]) + (" ..." if len(result["left_out"]) > 8 else "")
    left = f", {len(result['left_out'])} left out, which tie two splits together ({named})" if result["left_out"] else ""
    counts = ", ".join(f"{k} {v}" for k, v in result["counts"].items())
    emit(result, as_json, f"{counts}{left}; {result['links']} links between cases, {result['crossing']} of them cross splits")


@app.command()
def pack(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the shards. The same command writes those that are missing.")],
    to: Annotated[str, typer.Option(help="webdataset (tar) or parquet; Hugging Face `datasets` loads both.")] = "webdataset",
    per_shard: Annotated[int, typer.Option(help="Cases in a shard.")] = 1000,
    layout: Layout = "auto",
    as_json: JsonOut = False,
) -> None:
    """Put a folder of cases into few large files, for storage far away and many readers."""
    from polypforge.workflows.pack import pack_data

    result = pack_data(data, out, to, per_shard, layout)
    left = f", {result['left_out']} cases left out" if result["left_out"] else ""
    emit(result, as_json, f"{result['cases']} cases in {result['shards']} shards in {out} ({result['written']} written now{left})")


@app.command()
def masks(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the new data set.")],
    model: Annotated[str, typer.Option(help="A model of the SAM family, by folder or hub id (facebook/sam-vit-base).")],
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Turn boxes into pixel masks, so that box-only data can be expanded. Look at the result before you train on it."""
    from polypforge.workflows.box_masks import mask_boxes

    result = mask_boxes(data, out, model, layout=layout, skip_bad=skip_bad, device=device, offline=offline)
    emit(result, as_json, f"{result['cases']} cases in {out}, {len(result['left_out'])} left out")
