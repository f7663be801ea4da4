"""`polypforge plan`: requests that give a data set what it lacks; and the planner that other commands make theirs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import Case, Request
from polypforge.generation.writer import read_requests, write_requests
from polypforge.masks.attributes import shape as shape_of
from polypforge.masks.shapes import components
from polypforge.models.locate import locate, set_offline
from polypforge.proposals.census import BINS, Lesion, classify, measure_lesions, shares, take_census
from polypforge.proposals.outlines import PARIS, Blobs, KnownOutlines, Outlines, ParisOutlines, unit_outline
from polypforge.proposals.placements import proposals_of, read_boxes, read_drawn
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.proposals.proposal import Proposal
from polypforge.proposals.whole import FreePlanner, MaskPlanner
from polypforge.proposals.wishes import quotas
from polypforge.recipes import Recipe, load_recipe
from polypforge.workflows.device import device_of
from polypforge.workflows.opened import Opened, open_checked, refuse_several_classes
from polypforge.workflows.run_folder import refuse_other_file

POOL = 64  # masks of a model that outlines are taken from
REFERENCES = 150  # lesions that are measured to know the data's sizes and colours
WITHOUT_REMOVAL = PlanConfig(replace=2 / 3, add=1 / 3, move=0.0)
MATCH = "match"

AnyPlanner = Planner | MaskPlanner | FreePlanner


def plan_requests(
    data: Path,
    out: Path,
    num: int,
    *,
    want: str = MATCH,
    outlines: str | None = None,
    masks: bool = False,
    proposals: Path | None = None,
    drawn: Path | None = None,
    boxes: Path | None = None,
    layout: str = "auto",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Write `num` requests for `polypforge generate` to `out`, and return what the data and the plan are like.

    want: see `proposals.wishes.quotas`. outlines: where shapes come from, see `outlines_of`. masks: whether requests name the lesion's
    outline, for recipes that need a mask. proposals, drawn, boxes: places that are given (at most one of them). Raises UserError before
    anything is written.
    """
    if num < 1:
        raise UserError(f"--num is {num}: ask for at least one request.")
    if sum(x is not None for x in (proposals, drawn, boxes)) > 1:
        raise UserError("--proposals, --drawn and --boxes each say where lesions go: give one of them.")
    refuse_other_file(out, data)
    quotas(want, [])  # a slip of the pen is told at once
    for given in filter(None, (proposals, drawn, boxes)):
        if not given.exists():
            raise UserError(f"{given}: no such file or folder.")
    set_offline(offline)
    opened = open_checked(data, layout, skip_bad, min_cases=1)
    refuse_several_classes(opened)
    load = opened.loader()
    names = _paintable(opened)
    with Progress(TextColumn("measuring lesions"), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("census", total=len(names))

        def seen(name: str) -> Case:
            bar.advance(task)
            return load(name)

        census = take_census(names, seen)
    places = _places(proposals, drawn, boxes, names, load)
    # Given places bring their sizes: drawing colours from the data's lesions is all that can match.
    wanted = [] if places is not None and want == MATCH else quotas(want, census.lesions)
    planner = Planner(
        names, load, census.lesions, seed, WITHOUT_REMOVAL, masks, wanted,
        outlines_of(outlines, census.lesions, seed, device) if outlines else None, places, opened.scenes(),
    )  # fmt: skip
    requests: list[Request] = []
    with Progress(TextColumn("planning"), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("plan", total=num)
        for index in range(num):
            requests += planner.requests(index)
            bar.advance(task)
    planned = [classify(lesion) for lesion in planner.lesions]
    met = _met(planner, planned)
    missed = [abs(q["wanted"] - q["planned"]) for q in met] + _missed_bins(planner, planned)
    write_requests(out, requests)
    return {
        "requests": len(requests), "out": str(out), "lesions per frame": census.per_frame, "data": census.shares(), "plan": shares(planned),
        "quotas": met, "greatest miss": round(max(missed, default=0.0), 4),
    }  # fmt: skip


def _met(planner: Planner, planned: list[dict[str, str]]) -> list[dict[str, Any]]:
    rows = []
    for quota in planner.turns.wanted:
        count = sum(all(kind[name] == label for name, label in quota.cell.items()) for kind in planned)
        rows.append({"quota": str(quota), "wanted": round(quota.share, 4), "planned": round(count / max(1, len(planned)), 4)})
    return rows


def _missed_bins(planner: Planner, planned: list[dict[str, str]]) -> list[float]:
    """How far the plan is from what the quotas add up to, for each bin of the dimensions that all of them name."""
    wanted = planner.turns.wanted
    named = [name for name in BINS if wanted and all(name in q.cell for q in wanted)]
    found = shares(planned)
    return [abs(sum(q.share for q in wanted if q.cell[name] == label) - found[name][label]) for name in named for label in BINS[name]]


def _places(proposals: Path | None, drawn: Path | None, boxes: Path | None, names: list[str], load) -> dict[str, list[Proposal]] | None:
    if proposals is None and drawn is None and boxes is None:
        return None
    known = {name: (lambda name=name: load(name).size) for name in names}  # sizes are read of the frames that are named
    if proposals is not None:
        return proposals_of(read_requests(proposals), proposals, known)
    return read_drawn(drawn, known) if drawn is not None else read_boxes(boxes or Path(), known)


def outlines_of(name: str, lesions: Sequence[Lesion], seed: int, device: str = "auto") -> Outlines:
    """blob (by rule), real (the data's lesions, changed), paris or paris:Is,IIa (by class), or weights with a model of masks."""
    if name == "blob":
        return Blobs()
    if name == "paris" or name.startswith("paris:"):
        return ParisOutlines([c.strip() for c in name.partition(":")[2].split(",")] if ":" in name else PARIS)
    if name == "real":
        return KnownOutlines([((x.attributes.elongation, x.attributes.solidity), x.outline) for x in lesions if x.outline is not None])
    recipe = load_recipe(locate(name)).to(device_of(device))
    console.print(f"Drawing {POOL} masks to take outlines from.")
    seeds = [seed_from(seed, "outline", i) for i in range(POOL)]
    masks = [m for start in range(0, POOL, 16) for m in recipe.draw_masks(seeds[start : start + 16]) if m.any()]
    return KnownOutlines([(shape_of(components(m)[0]), unit_outline(m)) for m in masks], stretch=0, bend=0)


def check_wish(want: str | None, recipe: type[Recipe]) -> None:
    """Raises UserError for a wish that means nothing, or that the recipe can't follow; before anything costly is done."""
    if want is None:
        return
    if "background" not in recipe.needs:
        raise UserError(f"--want asks for kinds of lesions, but {recipe.name} draws whole frames, whose lesions are those of their masks.")
    quotas(want, [])


def _paintable(opened: Opened) -> list[str]:
    """Training frames whose label can be kept whole when a part is repainted: not those with boxes alone."""
    names = [c.name for c in opened.cases("train")]
    boxed = {c.name for c in opened.cases("train") if c.read_masks is None and c.boxes}
    if boxed:
        console.print(
            f"Leaving out {len(boxed)} of {len(names)} frames, which have boxes but no mask: what is repainted would lose its label."
        )
    return [n for n in names if n not in boxed]


def make_planner(opened: Opened, load, seed: int, recipe: Recipe, config: PlanConfig | None = None, want: str | None = None) -> AnyPlanner:
    """Backgrounds and masks are those of the training cases; sizes and colours come from up to REFERENCES of their own lesions.

    want: see `proposals.wishes.quotas`; only for recipes that repaint frames. Raises UserError.
    """
    check_wish(want, type(recipe))
    names = [c.name for c in opened.cases("train")]
    references: list[Lesion] = []
    shown = [c.name for c in opened.lesions("train")]
    for pick in numpy_rng(seed, "references").permutation(len(shown)):
        references += measure_lesions(load(shown[pick]))
        if len(references) >= REFERENCES:
            break
    if "background" in recipe.needs:
        config = config or (PlanConfig() if recipe.removes else WITHOUT_REMOVAL)
        wanted = quotas(want, references) if want is not None else []
        shapes = "mask" in recipe.needs
        return Planner(_paintable(opened), load, references, seed, config, shapes, wanted, scenes=opened.scenes())
    if "mask" in recipe.needs:
        return MaskPlanner(names, load, references, seed)
    return FreePlanner(references, seed)
