"""How many planted copies does the audit catch, at what false positives? On real data, whose test split nothing learned from.

    python benchmarks/audit.py --data ../shared/data/kvasir-seg --copies 100

Copies of training frames (exact, mirrored, turned, cropped, recompressed, recoloured, all at once) and of single training lesions, turned,
scaled, mirrored and recompressed, pasted into held-out frames (plainly and by Poisson blending). A copy counts as caught when the frame
or its lesion is called one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from polypforge.core.intervals import wilson_interval
from polypforge.core.types import Case, Image, Mask
from polypforge.quality.audit.copies import frame_view, lesion_view
from polypforge.quality.audit.training import TrainingPictures, frame_pictures, lesion_pictures, lesions_of
from polypforge.quality.gates.memory import COPIED
from polypforge.workflows.opened import open_checked

Change = Callable[[Image, np.random.Generator], Image]


def cropped(image: Image, rng: np.random.Generator) -> Image:
    share = rng.uniform(0.6, 0.9)
    height, width = image.shape[:2]
    y, x = int(rng.uniform(0, 1 - share) * height), int(rng.uniform(0, 1 - share) * width)
    return np.ascontiguousarray(image[y : y + int(share * height), x : x + int(share * width)])


def recompressed(image: Image, rng: np.random.Generator) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 70))])[1], cv2.IMREAD_COLOR)


def recoloured(image: Image, rng: np.random.Generator) -> Image:
    changed = (image / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.2, 3)
    return (changed.clip(0, 1) * 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "exact": lambda image, rng: image,
    "mirrored": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "turned": lambda image, rng: np.ascontiguousarray(np.rot90(image, int(rng.integers(1, 4)))),
    "cropped": cropped,
    "recompressed": recompressed,
    "recoloured": recoloured,
    "all of them": lambda image, rng: recompressed(recoloured(cropped(np.ascontiguousarray(np.rot90(image[:, ::-1])), rng), rng), rng),
}


def pasted(case: Case, lesion: Mask, host: Image, rng: np.random.Generator) -> tuple[Image, Mask] | None:
    """The lesion in another frame, turned, scaled by 0.75 to 1.3, mirrored or not, blended; None where it doesn't fit."""
    rows, columns = np.nonzero(lesion)
    x, y = columns.mean(), rows.mean()
    matrix = cv2.getRotationMatrix2D((x, y), rng.uniform(0, 360), rng.uniform(0.75, 1.3) * min(host.shape[:2]) / min(case.size))
    matrix[:, 2] += np.array([host.shape[1] / 2 - x, host.shape[0] / 2 - y])
    size = host.shape[1::-1]
    moved = cv2.warpAffine(case.image, matrix, size, flags=cv2.INTER_CUBIC)
    where = cv2.warpAffine(lesion.astype(np.uint8) * 255, matrix, size) > 127
    if rng.random() < 0.5:
        moved, where = np.ascontiguousarray(moved[:, ::-1]), np.ascontiguousarray(where[:, ::-1])
    edge = np.concatenate([where[0], where[-1], where[:, 0], where[:, -1]])
    if where.sum() < 60 or edge.any():
        return None
    if rng.random() < 0.5:
        soft = cv2.GaussianBlur(where.astype(np.float32), (0, 0), 2)[..., None]
        return (soft * moved + (1 - soft) * host).astype(np.uint8), where
    rows, columns = np.nonzero(where)
    middle = (int(columns.min() + columns.max()) // 2, int(rows.min() + rows.max()) // 2)
    return cv2.seamlessClone(moved, host, where.astype(np.uint8) * 255, middle, cv2.NORMAL_CLONE), where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=100, help="of each kind")
    parser.add_argument("--check", type=Path, default=None, help="keep the check of the data here")
    given = parser.parse_args()
    opened = open_checked(given.data, skip_bad=True, cache=given.check)
    train = [c.load() for s in ("train", "val") for c in opened.cases(s)]
    held = [c.load() for c in opened.cases("test")]
    frames = TrainingPictures([p for c in train for p in frame_pictures(c, c.name)])
    lesions = TrainingPictures([p for c in train for p in lesion_pictures(c, c.name)])
    rng = np.random.default_rng(0)

    def likeness(image: Image, parts: list[Mask]) -> tuple[float, float]:
        """Correlation of the frame, and of its likest lesion."""
        inside = [lesions.nearest(lesion_view(image, m)).correlation for m in parts]
        return frames.nearest(frame_view(image)).correlation, max(inside, default=-1.0)

    with ThreadPoolExecutor() as pool:
        unseen = list(pool.map(lambda c: likeness(c.image, list(lesions_of(c))), held))
        print(
            "| real held-out pictures | n | above the threshold (95 %) | median | 99 % | largest |\n| --- | --- | --- | --- | --- | --- |"
        )
        for k, kind in enumerate(("frames", "lesions")):
            values = np.array([u[k] for u in unseen])
            hits = int((values > COPIED).sum())
            low, high = wilson_interval(hits, len(values))
            print(
                f"| {kind} | {len(values)} | {hits / len(values):.1%} ({low:.1%}-{high:.1%}) | {np.median(values):.2f} | "
                f"{np.quantile(values, 0.99):.2f} | {values.max():.2f} |"
            )
        print("\n| planted copies | n | caught (95 %) |\n| --- | --- | --- |")
        caught_all = total = 0
        for name, change in CHANGES.items():
            chosen = [train[i] for i in rng.permutation(len(train))[: given.copies]]
            changed = [change(c.image, rng) for c in chosen]
            caught = sum(v > COPIED for v in pool.map(lambda image: frames.nearest(frame_view(image)).correlation, changed))
            caught_all, total = caught_all + caught, total + len(changed)
            tell(f"frame, {name}", caught, len(changed))
        planted = []
        while len(planted) < given.copies:
            case = train[rng.integers(len(train))]
            parts = list(lesions_of(case))
            made = pasted(case, parts[rng.integers(len(parts))], held[rng.integers(len(held))].image, rng) if parts else None
            if made is not None:
                planted.append((recompressed(recoloured(made[0], rng), rng), made[1]))
        caught = sum(v > COPIED for v in pool.map(lambda m: lesions.nearest(lesion_view(*m)).correlation, planted))
        tell("one lesion, pasted into another frame", caught, len(planted))
        tell("all", caught_all + caught, total + len(planted))


def tell(name: str, caught: int, n: int) -> None:
    low, high = wilson_interval(caught, n)
    print(f"| {name} | {n} | {caught / n:.1%} ({low:.1%}-{high:.1%}) |", flush=True)


if __name__ == "__main__":
    main()
