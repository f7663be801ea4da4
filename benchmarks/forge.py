"""The ladder of `forge`: how near are its lesions to real ones, on validation frames that no weights learned from and no test looks at?

    python benchmarks/forge.py --data ../shared/data/kvasir-seg --model starter:forge --model runs/forge --out ladder

Every model answers the same requests. Lesions are compared in their surroundings (window of twice their size) with the real lesions of the
same frames. Detail: how strong lesions are in octaves of 1, 2, 4 and 8 pixels of a window of 256, without highlights or outline, as a share
of the real ones (medians). Glare: share of the lesion whose darkest channel exceeds 200 (median), bright spots of at least 4 pixels of
that window (mean), and pixels of the largest (median). OUT/sheet.png shows the same requests, one row a model, the real frame on top.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import darkest_channel, write_png
from polypforge.core.intervals import bootstrap_interval, half_sample_interval, wilson_interval
from polypforge.core.types import Case, Image, Mask
from polypforge.core.window import around_mask
from polypforge.evaluation.images.frechet import frechet
from polypforge.evaluation.images.kernel import kid
from polypforge.evaluation.images.manifold import manifold_measures
from polypforge.evaluation.images.sliced import sliced_wasserstein
from polypforge.evaluation.masks.shapes import boundary_sharpness
from polypforge.masks.shapes import components, dilate, erode, region_mask
from polypforge.models.locate import locate
from polypforge.proposals.census import measure_lesions
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.quality.gates import Subject
from polypforge.quality.gates.gatekeeper import label_gates
from polypforge.quality.judges import load_judge
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.forge.grain import HIGHLIGHT
from polypforge.reporting.panels import sheet
from polypforge.workflows.bench.sampling import PLAIN_STEPS, plain_forge
from polypforge.workflows.encoder import open_encoder
from polypforge.workflows.opened import open_checked
from polypforge.workflows.pictures import LEAST_WINDOW_PX, LESION_PX, LESION_SCALE, embed

ENCODERS = ("starter:encoder", "random_vgg")
SHOWN = 8
DETAIL_PX, DETAIL_SCALE, OCTAVES = 256, 1.75, (1, 2, 4, 8)  # the model's own window
LEAST_PX = 300
BRIGHT, LEAST_SPOT_PX = 200, 4
PLAIN = -1  # in place of a number of steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, action="append", help="steps of the base stage, in place of the model's own; may be repeated")
    parser.add_argument("--plain", action="store_true", help="also the loop of `polypforge bench`: one at a time, 50 Euler steps, float32")
    parser.add_argument("--count", type=int, default=96)
    given = parser.parse_args()
    opened = [open_checked(d, cache=given.out / f"{d.name}.json", skip_bad=True) for d in given.data]
    frames = [c.load() for o in opened for c in o.cases("val")]
    by_name = {c.name: c for c in frames}
    learned = [c.load() for o in opened for c in o.cases("train")[:200]]
    references = [a for c in learned if c.mask is not None and c.mask.any() for a in measure_lesions(c)]
    planner = Planner(sorted(by_name), by_name.__getitem__, references, 0, PlanConfig(replace=0.5, add=0.5, move=0.0))
    requests = [r for i in range(given.count) for r in planner.requests(i)]
    real = [(c.image, part) for c in frames if c.mask is not None for part in components(c.mask, 60)]
    encoders = [open_encoder(name, "cpu") for name in ENCODERS]
    judge = load_judge(locate("starter:window_segmenter"))
    truth = [_features(e, real) for e in encoders]
    step = float(np.median([boundary_sharpness(*pair) for pair in real]))
    print(f"{len(requests)} requests on {len(frames)} validation frames; {len(real)} real lesions; median step {step:.2f}")
    strength = _octaves(real)
    columns = ["model", "KID x 1000, starter", "Fréchet, random VGG", "coverage", "sliced W. 128", "step at outline", "detail"]
    columns += ["glare, spots, largest", "accepted", "s a case"]
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    print(f"| real | | | | | | | {_spots(real)} | | |")
    rows = [[_window(by_name[r.background], region_mask(r.region, by_name[r.background].size)) for r in requests[:SHOWN]]]
    for name, steps in product(given.model, [*(given.steps or [None]), *([PLAIN] if given.plain else [])]):
        recipe = load_recipe(locate(name)).float()
        make, batch = recipe.generate, 8
        if steps == PLAIN:
            make, batch, name = partial(plain_forge, recipe), 1, f"{name}, plain loop of {PLAIN_STEPS} steps"
        elif steps:
            recipe.config, name = replace(recipe.config, base_steps=steps), f"{name}, {steps} steps"
        started, made = time.perf_counter(), []
        for k in range(0, len(requests), batch):
            made += make([Job(r, by_name[r.background]) for r in requests[k : k + batch]])
        spent = (time.perf_counter() - started) / len(requests)
        subjects = [Subject.synthetic(c, r) for c, r in zip(made, requests, strict=True)]
        kept = sum(v.kept for v in label_gates(judge).verdicts(subjects))
        drawn = [(s.case.image, s.lesion) for s in subjects if s.lesion.any()]
        found = [_features(e, drawn) for e in encoders]
        sharp = [boundary_sharpness(*pair) for pair in drawn]
        near = 1000 * kid(truth[0], found[0])
        low, high = half_sample_interval(
            near, lambda i, j, found=found: 1000 * kid(truth[0][i], found[0][j]), (np.arange(len(real)), np.arange(len(drawn)))
        )
        sliced = sliced_wasserstein([_crop(*p) for p in real], [_crop(*p) for p in drawn])
        a, b = wilson_interval(kept, len(requests))
        print(
            f"| {name} | {near:.2f} ({low:.2f}-{high:.2f}) | {frechet(truth[1], found[1]):.1f} | "
            f"{manifold_measures(truth[0], found[0])['coverage']:.2f} | {next(iter(sliced.values())):.0f} | {np.median(sharp):.2f} "
            f"({'-'.join(f'{v:.2f}' for v in bootstrap_interval(sharp))} mean) | "
            f"{', '.join(f'{v:.2f}' for v in _octaves(drawn) / strength)} | "
            f"{_spots(drawn)} | {kept}/{len(requests)} ({a:.0%}-{b:.0%}) | {spent:.2f} |",
            flush=True,
        )
        rows.append([_window(c, region_mask(r.region, c.size)) for c, r in zip(made[:SHOWN], requests[:SHOWN], strict=True)])
    write_png(given.out / "sheet.png", sheet([np.hstack(row) for row in rows], 1))


def _crop(image: Image, lesion: Mask) -> Image:
    return around_mask(lesion, LESION_SCALE, LEAST_WINDOW_PX).crop(image, LESION_PX // 2)


def _features(encoder, lesions: list[tuple[Image, Mask]]) -> NDArray[np.float32]:
    windows = [around_mask(mask, LESION_SCALE, LEAST_WINDOW_PX).crop(image, LESION_PX) for image, mask in lesions]
    return np.concatenate([embed(encoder, windows[k : k + 16], "cpu") for k in range(0, len(windows), 16)])


def _octaves(lesions: list[tuple[Image, Mask]]) -> NDArray[np.float64]:
    """(4,) medians over lesions of the standard deviation of each octave, grey."""
    found = []
    for image, mask in lesions:
        window = around_mask(mask, DETAIL_SCALE, LEAST_WINDOW_PX)
        pixels = window.crop(image, DETAIL_PX)
        wet = dilate(darkest_channel(pixels) > HIGHLIGHT, 4)
        inside = erode(window.crop_mask(mask, DETAIL_PX), 6) & ~wet
        if inside.sum() < LEAST_PX:
            continue
        blurred = [pixels.mean(axis=2, dtype=np.float32)]
        blurred += [cv2.GaussianBlur(blurred[0], (0, 0), sigma) for sigma in OCTAVES]
        found.append([(a - b)[inside].std() for a, b in pairwise(blurred)])
    return np.median(found, axis=0)


def _spots(lesions: list[tuple[Image, Mask]]) -> str:
    glare, count, largest = [], [], []
    for image, mask in lesions:
        window = around_mask(mask, DETAIL_SCALE, LEAST_WINDOW_PX)
        inside = window.crop_mask(mask, DETAIL_PX)
        if inside.sum() < LEAST_PX:
            continue
        bright = (darkest_channel(window.crop(image, DETAIL_PX)) > BRIGHT) & inside
        areas = [int(part.sum()) for part in components(bright, LEAST_SPOT_PX)]
        glare.append(bright.sum() / inside.sum())
        count.append(len(areas))
        largest.append(max(areas, default=0))
    return f"{np.median(glare):.3f}, {np.mean(count):.1f}, {np.median(largest):.0f}"


def _window(case: Case, region: Mask) -> Image:
    return around_mask(region, DETAIL_SCALE, LEAST_WINDOW_PX).crop(case.image, LESION_PX)


if __name__ == "__main__":
    main()
