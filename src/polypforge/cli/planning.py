"""`polypforge references`, `propose`, `plan`: where a lesion can be, and what to make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polypforge.cli.options import BatchSize, Device, JsonOut, Layout, Offline, Seed, SkipBad, emit


def references(
    data: Annotated[Path, typer.Argument(help="A data set whose training frames show polyps.")],
    out: Annotated[Path, typer.Option(help="Folder of the database. It grows when it exists; frames it holds are passed over.")],
    model: Annotated[str, typer.Option(help="Turns the polyps to normal: run folder, saved folder, or starter:NAME.")] = "starter:forge",
    encoder: Annotated[str, typer.Option(help="starter:encoder, a DINOv2 by folder or hub id, or denoiser:MODEL.")] = "starter:encoder",
    index: Annotated[str | None, typer.Option(help="flat, hnsw or ivfpq; by default what suits the size.")] = None,
    batch_size: BatchSize = 16,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Build or grow a database of frames without their polyps, from which `propose` learns where polyps can be."""
    from polypforge.workflows.references import build_references as run

    result = run(
        data, out, model=model, encoder=encoder, index=index, layout=layout, skip_bad=skip_bad, batch_size=batch_size, seed=seed,
        device=device, offline=offline,
    )  # fmt: skip
    emit(
        result,
        as_json,
        f"{result['added']} added, {result['references']} references; index {result['index']}, recall@5 {result['recall@5']}\n{out}",
    )


def propose(
    frames: Annotated[Path, typer.Argument(help="The frames: a data set, or with --layout normal a folder of frames alone.")],
    references: Annotated[Path, typer.Option(help="A database of `polypforge references`, or a data set to build one from.")],
    out: Annotated[Path, typer.Option(help="JSONL of proposals, which `generate --requests` takes.")],
    num: Annotated[int, typer.Option(help="Most proposals for each frame.")] = 5,
    references_per_frame: Annotated[int, typer.Option(help="Nearest references that are matched patch by patch.")] = 5,
    encoder: Annotated[str | None, typer.Option(help="By default the one that the database was built with.")] = None,
    model: Annotated[str, typer.Option(help="Turns polyps to normal when a database is built.")] = "starter:forge",
    in_lumen: Annotated[bool, typer.Option("--in-lumen", help="Allow places in the lumen.")] = False,
    explain: Annotated[Path | None, typer.Option(help="Folder for pictures of how proposals came about.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps features of frames between calls.")] = None,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Propose places and shapes for lesions: where frames that look alike once bore a polyp."""
    from polypforge.workflows.propose import propose_places as run

    result = run(
        frames, references, out, count=num, references_per_frame=references_per_frame, encoder=encoder, model=model, in_lumen=in_lumen,
        explain=explain, cache=cache, layout=layout, skip_bad=skip_bad, seed=seed, device=device, offline=offline,
    )  # fmt: skip
    emit(
        result,
        as_json,
        f"{result['proposals']} proposals for {result['frames']} frames ({result['retrieval']} by retrieval, {result['prior']} by the "
        f"data's habits), {result['frames without any']} frames without any\n{out}",
    )


def plan(
    data: Annotated[Path, typer.Argument(help="The data set whose frames are to be repainted.")],
    out: Annotated[Path, typer.Option(help="JSONL of requests, which `generate --requests` takes.")],
    num: Annotated[int, typer.Option(help="How many requests.")],
    want: Annotated[
        str,
        typer.Option(
            help="match (as the data), 'balance size', 'more small flat', or a CSV of quotas with the columns size (small, medium, large), "
            "colour (pale, similar, red), shape (round, oval, long), relief (flat, raised), place (centre, upper, ...), and share."
        ),
    ] = "match",
    outlines: Annotated[
        str | None,
        typer.Option(help="Shapes: blob, real (the data's masks, varied), paris or paris:Is,IIa, or weights of cond_polyp_diff."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Name each lesion's outline, for recipes that need a mask.")] = False,
    proposals: Annotated[Path | None, typer.Option(help="Places: JSONL of `polypforge propose`.")] = None,
    drawn: Annotated[Path | None, typer.Option(help="Places: folder of masks drawn for frames, with the frames' names.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="Places: JSON {frame: \\[[x0, y0, x1, y1], ...]}.")] = None,
    layout: Layout = "auto",
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: JsonOut = False,
) -> None:
    """Plan what to make, from what the data lacks: sizes, colours, shapes and places of lesions by quota."""
    from polypforge.workflows.plan import plan_requests as run

    result = run(
        data, out, num, want=want, outlines=outlines, masks=masks, proposals=proposals, drawn=drawn, boxes=boxes, layout=layout,
        skip_bad=skip_bad, seed=seed, device=device, offline=offline,
    )  # fmt: skip
    lines = [f"{'':10}{'data':>7}{'plan':>7}"]
    for name, shares in result["data"].items():
        lines += [name] + [f"  {label:8}{share:7.0%}{result['plan'][name][label]:7.0%}" for label, share in shares.items()]
    per_frame = ", ".join(f"{count} with {n}" for n, count in result["lesions per frame"].items())
    lines += [f"frames by lesions: {per_frame}", f"quotas missed by at most {result['greatest miss']:.1%}", result["out"]]
    emit(result, as_json, "\n".join(lines))
