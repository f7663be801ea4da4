"""Scores of predicted masks: of each image, and of a set with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import brightest_channel, shrunk_size
from polypforge.core.intervals import LEAST_GROUPS, group_weights, percentile_interval
from polypforge.core.types import Image, Mask
from polypforge.masks.attributes import SIZES
from polypforge.masks.shapes import dilate, rim

FLAT_LOOKING = 8.0  # CIELAB distance between lesion and surroundings below which a lesion counts as flat-looking

CONTRAST_PX = 160  # longer side at which colours are compared


@dataclass(frozen=True)
class ImageScore:
    """Pixels of one image, told right and wrong. hausdorff95: of the two boundaries, in shares of the image's diagonal; 1 when exactly one
    mask is empty. size: lesion area / image area. contrast: CIELAB distance between the lesion's and its surroundings' mean colour; NaN
    without a lesion. group: images of one group (patient, video) are no independent witnesses."""

    case: str
    group: str
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    hausdorff95: float
    size: float
    contrast: float

    @property
    def dice(self) -> float:
        return float(MEASURES["dice"](self.counts))

    @property
    def counts(self) -> NDArray[np.float64]:
        return np.array([self.true_positive, self.false_positive, self.false_negative, self.true_negative], np.float64)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _ratio(above: NDArray, below: NDArray, empty: float) -> NDArray:
    """above / below; `empty` where both are 0."""
    return np.where(below > 0, above / np.maximum(below, 1), empty)


# Of counts (..., 4): true positive, false positive, false negative, true negative. An image without lesion in which none is found is right.
MEASURES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "dice": lambda c: _ratio(2 * c[..., 0], 2 * c[..., 0] + c[..., 1] + c[..., 2], 1.0),
    "iou": lambda c: _ratio(c[..., 0], c[..., 0] + c[..., 1] + c[..., 2], 1.0),
    "precision": lambda c: _ratio(c[..., 0], c[..., 0] + c[..., 1], 1.0),
    "sensitivity": lambda c: _ratio(c[..., 0], c[..., 0] + c[..., 2], 1.0),
    "false_negative_rate": lambda c: _ratio(c[..., 2], c[..., 0] + c[..., 2], 0.0),
    "accuracy": lambda c: (c[..., 0] + c[..., 3]) / c.sum(-1),
}


def score_image(case: str, group: str, image: Image, truth: Mask, chance: NDArray[np.float32], threshold: float = 0.5) -> ImageScore:
    """image, truth and the predicted probability (H, W) at the image's own size."""
    found = chance > threshold
    both = int((truth & found).sum())
    wrong, missed = int(found.sum()) - both, int(truth.sum()) - both
    return ImageScore(
        case, group, both, wrong, missed, truth.size - both - wrong - missed,
        hausdorff95(truth, found), float(truth.mean()), colour_contrast(image, truth),
    )  # fmt: skip


def hausdorff95(a: Mask, b: Mask) -> float:
    """95th percentile of the distances from either boundary to the other, in shares of the diagonal; 0 for two empty masks."""
    if not a.any() or not b.any():
        return float(a.any() != b.any())
    edges = [rim(m) for m in (a, b)]
    far = [cv2.distanceTransform((~e).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for e in edges]
    distances = np.concatenate([far[1][edges[0]], far[0][edges[1]]])
    return float(np.quantile(distances, 0.95) / np.hypot(*a.shape))


def colour_contrast(image: Image, lesion: Mask) -> float:
    """CIELAB distance between the mean colours inside and in a ring around the lesion; NaN without a lesion or a ring."""
    _, size = shrunk_size(lesion.shape, CONTRAST_PX)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(lesion.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128
    if not inside.any():
        return float("nan")
    ring = dilate(inside, max(2.0, 0.25 * float(np.sqrt(inside.sum())))) & ~inside & (brightest_channel(small) > 20)
    if not ring.any():
        return float("nan")
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return float(np.linalg.norm(lab[inside].mean(0) - lab[ring].mean(0)))


def summarise(runs: Sequence[Sequence[ImageScore]], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"n", "groups", "imagewise": {measure: {"value", "interval"}}, "micro": ..., "by": {kind: {"n", "dice", "interval"}}}.

    runs: scores of the same images by one network or several, whose mean is told. imagewise: mean over images that show a lesion, over all
    for the accuracy (micro-imagewise of segmentation-models-pytorch counts an image without lesion in which nothing is found as 1, which
    many of them would make of any network); micro: of all pixels summed. by "without lesion": the share in which nothing is found.
    Intervals: 95 %, of these networks on other images, bootstrap over groups; None for fewer than LEAST_GROUPS. Raises ValueError for no
    scores, or none of a lesion.
    """
    if not runs or not runs[0]:
        raise ValueError("there is nothing to summarise")
    scores = runs[0]
    shows = lesion_shown(scores)
    if not shows.any():
        raise ValueError("no image shows a lesion")
    counts = np.stack([[s.counts for s in run] for run in runs])  # (runs, images, 4)
    weights = group_weights([s.group for s in scores], resamples, seed)
    each = {name: measure(counts).mean(0) for name, measure in MEASURES.items()}
    each["hausdorff95"] = np.mean([[s.hausdorff95 for s in run] for run in runs], 0)

    def told(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> dict[str, Any]:
        sums = weights[:, chosen].sum(1)
        draws = (weights[:, chosen] @ values[chosen])[sums > 0] / sums[sums > 0]
        enough = len({s.group for s, picked in zip(scores, chosen, strict=True) if picked}) >= LEAST_GROUPS
        return {"value": float(values[chosen].mean()), "interval": percentile_interval(draws) if enough else None}

    imagewise = {name: told(values, shows | (name == "accuracy")) for name, values in each.items()}
    several = len({s.group for s in scores}) >= LEAST_GROUPS
    pooled = weights @ counts
    micro = {
        n: {"value": float(m(counts.sum(1)).mean()), "interval": percentile_interval(m(pooled).mean(0)) if several else None}
        for n, m in MEASURES.items()
    }
    kinds = {f"{name} lesions": [low <= np.sqrt(s.size) < high and s.size > 0 for s in scores] for name, (low, high) in SIZES.items()}
    kinds |= {"flat-looking": [s.contrast < FLAT_LOOKING for s in scores], "raised-looking": [s.contrast >= FLAT_LOOKING for s in scores]}
    kinds["without lesion"] = [s.size == 0 for s in scores]
    by = {}
    for kind, picked in kinds.items():
        chosen = np.array(picked)
        if chosen.any():
            dice = told(each["dice"], chosen)
            by[kind] = {"n": int(chosen.sum()), "dice": dice["value"], "interval": dice["interval"]}
    return {"n": len(scores), "groups": len({s.group for s in scores}), "imagewise": imagewise, "micro": micro, "by": by}


def lesion_shown(scores: Sequence[ImageScore]) -> NDArray[np.bool_]:
    """(n,): which images show a lesion."""
    return np.array([s.size > 0 for s in scores])
