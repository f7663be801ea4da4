"""Do proposals hit where polyps were? On real training frames turned normal, leaving out each frame's near-duplicate group.

    python benchmarks/places.py --data ../shared/data/kvasir-seg --out runs/places

Best of 5 boxes, a hit is IoU > 0.3 with a polyp's box. Compared: boxes drawn uniformly, boxes of other frames' polyps (the data's own
habits of place and size), and ours with its parts left out. And a control: in some frames a place *without* polyp was repainted, too; were
proposals drawn to it more than boxes of the data's habits are, they would find traces of repainting rather than places for polyps.
Settings were chosen on one half of the frames (`--part choose`); figures are of the other. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polypforge.core.intervals import bootstrap_interval
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import NORMAL, Box, Case, Request
from polypforge.data.prepared import prepare
from polypforge.features.frames import FrameFeatures, encode
from polypforge.masks.shapes import bounding_box, loosened, polygon_mask
from polypforge.models.locate import locate
from polypforge.proposals.database import ReferenceDatabase
from polypforge.proposals.places import region_polygon
from polypforge.proposals.proposer import Proposer, ProposerConfig
from polypforge.proposals.ranking import AGREE, box_ious
from polypforge.proposals.retrieval import RetrievalConfig
from polypforge.recipes import Job, load_recipe
from polypforge.workflows.encoder import open_encoder
from polypforge.workflows.opened import open_checked
from polypforge.workflows.references import build_references, turn_normal

COUNT = 5


class Query:
    """A frame without its polyps, small; where they were, as boxes in shares of width and height; its features."""

    def __init__(self, image, name: str, group: str, truth: NDArray[np.float64], patches, vector) -> None:
        self.case = Case(name, image, None, (), NORMAL, group)
        self.truth = truth
        self.features = FrameFeatures(vector, patches, max(image.shape[:2]) / max(patches.shape[:2]))


def shares_of(polygons: Sequence, size: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 4) boxes of polygons in frame pixels, as shares of the frame."""
    boxes = [(*np.min(p, 0), *(np.max(p, 0) + 1)) for p in polygons]
    return np.array(boxes, float) / np.array([size[1], size[0]] * 2)


def hit(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(len(boxes) > 0 and bool((box_ious(boxes, truth) > AGREE).any()))


def uniform(rng: np.random.Generator) -> NDArray[np.float64]:
    side = rng.uniform(0.1, 0.7, (COUNT, 2))
    low = rng.uniform(0, 1, (COUNT, 2)) * (1 - side)
    return np.hstack([low, low + side])


def proposed(query: Query, database: ReferenceDatabase, config: ProposerConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes of the outlines, and the rectangles of the matched patches, as shares of the frame."""
    found = Proposer(database, config).propose(prepare(query.case), query.features)
    height, width = query.case.size
    scale = np.array([width, height] * 2, float)
    outlines = [bounding_box(polygon_mask(list(p.lesion), (height, width))) for p in found]
    rectangles: list[Box] = [p.rectangle for p in found if p.rectangle is not None]
    return np.array(outlines, float).reshape(-1, 4) / scale, np.array(rectangles, float).reshape(-1, 4) / scale


def row(name: str, hits: Sequence[float]) -> str:
    low, high = bootstrap_interval(hits)
    return f"| {name} | {np.mean(hits):.3f} ({low:.3f}-{high:.3f}) | {len(hits)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="starter:encoder")
    parser.add_argument("--model", default="starter:forge", help="what turns polyps to normal")
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--part", choices=("choose", "report"), default="report", help="Settings were chosen on one half.")
    parser.add_argument("--controls", type=int, default=120)
    given = parser.parse_args()
    folder = given.out / "database"
    print(build_references(given.data, folder, model=given.model, encoder=given.encoder))
    encoder = open_encoder(given.encoder)
    database = ReferenceDatabase.open(folder, encoder)
    vectors = database.vectors()
    picks = numpy_rng("places").permutation(len(database))
    queries = []
    wanted = [i for i in picks if (numpy_rng("part", database.references[i].group).random() < 0.5) == (given.part == "choose")]
    for i in wanted[: given.frames]:
        r = database.references[i]
        queries.append(Query(database.picture(i), r.name, r.group, shares_of(r.lesions, r.size), database.patches(i), vectors[i]))
    habits = {i: shares_of(r.lesions, r.size) for i, r in enumerate(database.references)}

    def habit(query: Query, rng: np.random.Generator) -> NDArray[np.float64]:
        own = database.kin(query.case.name, query.case.group)
        others = np.concatenate([boxes for i, boxes in habits.items() if i not in own])
        return others[rng.integers(len(others), size=COUNT)]

    full = ProposerConfig(count=COUNT)
    one_way = replace(full.retrieval, directions=("reference to frame",))
    ways: dict[str, Callable[[Query], NDArray[np.float64]]] = {
        "uniform boxes": lambda q: uniform(numpy_rng("uniform", q.case.name)),
        "boxes of the data's habits": lambda q: habit(q, numpy_rng("habit", q.case.name)),
        "ours": lambda q: proposed(q, database, full)[0],
        "ours, matched patches only": lambda q: proposed(q, database, replace(full, habits=0.0))[0],
        "ours, matched patches only, paper's direction": lambda q: proposed(q, database, replace(full, habits=0.0, retrieval=one_way))[0],
        "ours, habits only": lambda q: proposed(q, database, replace(full, habits=1.0))[0],
        "enclosing rectangles of matched patches": lambda q: proposed(q, database, replace(full, habits=0.0))[1],
        "as Polyp-Gen's program (one rectangle)": lambda q: proposed(
            q, database, replace(full, count=1, habits=0.0, retrieval=RetrievalConfig(directions=("frame to reference",)))
        )[1],
    }  # fmt: skip
    print(f"\n| boxes, best of {COUNT} | share of frames hit (95 %) | n |\n| --- | --- | --- |")
    for name, way in ways.items():
        print(row(name, [hit(way(q), q.truth) for q in queries]), flush=True)
    control(given.data, given.model, database, encoder, habit, full, given.controls)


def control(data: Path, model: str, database: ReferenceDatabase, encoder, habit, config: ProposerConfig, count: int) -> None:
    """Frames with a repainted place that bore no polyp, beside the place that did."""
    opened = open_checked(data, min_cases=1)
    recipe = load_recipe(locate(model))
    cases = {c.name: c for c in opened.cases("train")}
    hits: dict[str, list[float]] = {"place that bore a polyp": [], "place that was repainted only": [], "of the latter, by habits": []}
    names = [database.references[i].name for i in numpy_rng("controls").permutation(len(database))]
    for name in names:
        if len(hits["place that bore a polyp"]) == count:
            break
        case = cases[name].load()
        decoy = _elsewhere(case)
        if decoy is None:
            continue
        (normal,) = turn_normal(recipe, [case], 0)
        request = Request(case.name, NORMAL, region_polygon(decoy), 1)
        repainted = recipe.generate([Job(request, normal)])[0]
        (features,) = encode(encoder, [repainted.image])
        i = min(database.kin(name, ""), key=lambda k: database.references[k].name != name)
        r = database.references[i]
        query = Query(repainted.image, name, r.group, shares_of(r.lesions, r.size), features.patches, features.vector)
        found = proposed(query, database, config)[0]
        ys, xs = np.nonzero(decoy)
        box = shares_of([np.stack([xs, ys], 1)], case.size)
        hits["place that bore a polyp"].append(hit(found, query.truth))
        hits["place that was repainted only"].append(hit(found, box))
        hits["of the latter, by habits"].append(hit(habit(query, numpy_rng("habit", name)), box))
    print("\n| control | share hit (95 %) | n |\n| --- | --- | --- |")
    for name, values in hits.items():
        print(row(name, values), flush=True)


def _elsewhere(case: Case):
    """A region as large as the polyp's, elsewhere in the field; None when there is no room."""
    if case.mask is None:
        return None
    prepared = prepare(case)
    own = loosened(case.mask, 0.12)
    x0, y0, x1, y1 = bounding_box(own)
    rng = numpy_rng("decoy", case.name)
    for _ in range(200):
        dx, dy = int(rng.integers(-x0, case.size[1] - x1 + 1)), int(rng.integers(-y0, case.size[0] - y1 + 1))
        moved = np.zeros_like(own)
        moved[y0 + dy : y1 + dy, x0 + dx : x1 + dx] = own[y0:y1, x0:x1]
        if not (moved & own).any() and (moved & prepared.field).sum() > 0.98 * moved.sum():
            return moved
    return None


if __name__ == "__main__":
    main()
