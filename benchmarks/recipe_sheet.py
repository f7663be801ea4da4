"""Two phantom requests through every recipe, as one picture.

    python benchmarks/recipe_sheet.py polyp_gen=RUN cond_polyp_diff=RUN ... --out docs/pictures/recipes.jpg

Whole-frame recipes draw what they were trained on: train them on phantom frames (`--set phantom.frames=200`, no --data) for a picture
that may be shown. The others repaint phantom frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.phantom.render import render
from polypforge.recipes import Recipe
from polypforge.reporting.panels import edit_strip, sheet
from polypforge.workflows.train import preview_jobs

FRAMES, SIZE_PX, SIDE_PX, NAME_PX = (31, 47), 384, 150, 22


def row(name: str, recipe: Recipe, cases: list[Case]) -> np.ndarray:
    asked = preview_jobs([prepare(c) for c in cases], recipe)
    strips = [edit_strip(j.request, j.case, c, SIDE_PX) for j, c in zip(asked, recipe.generate(asked), strict=True)]
    picture = sheet(strips, 2)
    title = np.full((NAME_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(title, name, (4, NAME_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([title, picture])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=RUN, or NAME=starter:NAME")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cases = [render(seed, SIZE_PX, polyps=1) for seed in FRAMES]
    for number, case in enumerate(cases):
        case.name = f"phantom-{number}"
    rows = []
    for entry in given.models:
        name, _, model = entry.partition("=")
        rows.append(row(name, Recipe.from_pretrained(model), cases))
    cv2.imwrite(str(given.out), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])
    print(given.out)


if __name__ == "__main__":
    main()
