"""How many pixels of burnt-in text are found, on text rendered over real frames, and how much else is?

    python benchmarks/overlays.py --data ../shared/data/kvasir-seg --data ../shared/data/polypgen --frames 200 --sheet overlays.png

Fonts that the shipped finder was trained without can be named with --fonts FOLDER. Frames are held-out ones where plain image processing
finds no text, so that everything found beside the rendered letters is false (or a real letter that both had missed: look at the sheet).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from polypforge.core.intervals import bootstrap_interval
from polypforge.data.layouts import open_source
from polypforge.data.overlays import overlay_text
from polypforge.phantom.overlays import draw_overlay, system_fonts
from polypforge.reporting.panels import sheet
from polypforge.workflows.deidentify import FINDER, Deidentifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--fonts", type=Path, default=None)
    parser.add_argument("--finder", default=FINDER)
    parser.add_argument("--sheet", type=Path, default=None, help="16 real frames with what was found on them")
    given = parser.parse_args()
    fonts = tuple(str(p) for p in sorted(given.fonts.rglob("*.ttf"))) if given.fonts else system_fonts()
    cleaner = Deidentifier(given.finder)
    rng = np.random.default_rng(0)
    held = [c for d in given.data for c in open_source(d).cases if c.split == "test"]
    order = [held[i] for i in rng.permutation(len(held))]
    found = letters = 0
    shares, false, plain_found = [], [], 0
    for entry in order:
        if len(shares) == given.frames:
            break
        image = entry.load().image
        if overlay_text(image).any():
            continue
        drawn, mask = draw_overlay(image, rng, fonts)
        if not mask.any():
            continue
        drawn = cv2.imdecode(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR)
        seen = cleaner.text(drawn)
        found, letters = found + int((seen & mask).sum()), letters + int(mask.sum())
        plain_found += int((overlay_text(drawn) & mask).sum())
        shares.append(float((seen & mask).sum() / mask.sum()))
        around = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
        false.append(float((seen & ~around).mean()))
    low, high = bootstrap_interval(shares)
    print(f"| frames | fonts | letter pixels found | per frame (95 %) | by image processing alone | found elsewhere |\n{'| --- ' * 6}|")
    print(
        f"| {len(shares)} | {len(fonts)} | {found / letters:.2%} | {np.mean(shares):.2%} ({low:.2%}-{high:.2%}) | "
        f"{plain_found / letters:.1%} | {np.mean(false):.3%} of the frame |"
    )
    if given.sheet:
        tiles = []
        for entry in order[:16]:
            image = entry.load().image
            marked = image.copy()
            marked[cleaner.text(image)] = (255, 230, 0)
            tiles.append(
                cv2.resize(np.hstack([image, marked, cleaner.clean(entry.load()).image]), (720, 220), interpolation=cv2.INTER_AREA)
            )
        cv2.imwrite(str(given.sheet), sheet(tiles, 2)[..., ::-1])


if __name__ == "__main__":
    main()
