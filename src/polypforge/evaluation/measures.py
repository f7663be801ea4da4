"""Which figures compare two sets of features, each with its interval, its floor, and a word where it means nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.intervals import half_sample_interval
from polypforge.evaluation.images.diversity import vendi_score
from polypforge.evaluation.images.frechet import frechet, frechet_infinity
from polypforge.evaluation.images.kernel import cmmd, kid
from polypforge.evaluation.images.manifold import NEIGHBOURS, manifold_measures

Features = NDArray[np.float32]
MOST_FOR_PAIRS = 4000  # figures that look at all pairs take a random part of larger sets
MOST_FOR_MOMENTS = 20_000  # so does the interval of a Fréchet distance
VENDI_ROWS = 1000
LEAST_FOR_INTERVAL = 2 * (NEIGHBOURS + 1)  # a half must still have neighbours
LEAST_FOR_LIMIT = 50


@dataclass(frozen=True)
class Figure:
    """measure of `pictures` (frame or lesion) by `extractor` (with its resizing). real, made: how many. value: None where it would mean
    nothing, and `note` says why. interval: 95 %, over the choice of pictures. floor: the value of two random parts of the real
    set, the second as large as the made set, or half of the real one if that is smaller."""

    measure: str
    pictures: str
    extractor: str
    real: int
    made: int
    value: float | None
    interval: tuple[float, float] | None = None
    floor: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """least: fewest pictures of either set for which it means anything. rows: most that it looks at. share: lies in 0..1."""

    name: str
    statistic: Callable[[Features, Features], float]
    least: int
    rows: int = MOST_FOR_PAIRS
    share: bool = False

    def figure(self, real: Features, made: Features, pictures: str, extractor: str) -> Figure:
        n, m = len(real), len(made)
        if min(n, m) < self.least:
            return Figure(self.name, pictures, extractor, n, m, None, note=self._refusal(min(n, m), real))
        a, b = (_part(x, self.rows) for x in (real, made))
        value = self.statistic(a, b) if self.name != "frechet" else self.statistic(real, made)  # its moments are gathered in chunks
        interval, floor = None, None
        if min(len(a), len(b)) >= LEAST_FOR_INTERVAL:
            low, high = half_sample_interval(value, lambda i, j: self.statistic(a[i], b[j]), (len(a), len(b)))
            interval = (max(0.0, low), min(1.0, high)) if self.share else (low, high)
            order, k = np.random.default_rng(0).permutation(len(a)), min(len(b), len(a) // 2)
            if min(k, len(a) - k) >= self.least:
                floor = self.statistic(a[np.sort(order[k:])], a[np.sort(order[:k])])
        return Figure(self.name, pictures, extractor, n, m, value, interval, floor)

    def _refusal(self, n: int, features: Features) -> str:
        if self.name == "frechet":
            return f"{n} pictures have no full covariance in {features.shape[1]} dimensions: read KID instead"
        return f"{n} pictures are too few"


def measures_for(width: int, clip: bool) -> list[Measure]:
    """Of features with `width` dimensions; CMMD for CLIP embeddings."""
    found = [Measure("frechet", frechet, width + 1, MOST_FOR_MOMENTS), Measure("kid", kid, 2)]
    if clip:
        found.append(Measure("cmmd", cmmd, 2))
    names = ("precision", "recall", "density", "coverage")
    return found + [Measure(n, partial(_manifold, n), LEAST_FOR_INTERVAL, share=n != "density") for n in names]


def compare_features(real: Features, made: Features, pictures: str, extractor: str, clip: bool = False) -> list[Figure]:
    """Fréchet distance and its limit, KID, precision, recall, density, coverage, Vendi score; CMMD for CLIP embeddings."""
    n, m = len(real), len(made)
    found = [measure.figure(real, made, pictures, extractor) for measure in measures_for(real.shape[1], clip)]
    if found[0].value is not None and min(n, m) >= LEAST_FOR_LIMIT:
        found.insert(1, Figure("frechet_infinity", pictures, extractor, n, m, frechet_infinity(real, made)))
    if m >= 2 and not extractor.startswith("random_vgg"):  # what never learned gives nearly parallel features
        found.append(Figure("vendi", pictures, extractor, n, m, vendi_score(_part(made, VENDI_ROWS)), floor=_vendi(real, m)))
    return found


def _manifold(name: str, real: Features, made: Features) -> float:
    return manifold_measures(real, made)[name]


def _vendi(real: Features, count: int) -> float | None:
    """Of as many real ones."""
    rows = min(count, VENDI_ROWS)
    return vendi_score(_part(real, rows)) if len(real) >= rows else None


def _part(features: Features, rows: int) -> Features:
    """A random part, read into memory."""
    if len(features) <= rows:
        return np.asarray(features)
    return np.asarray(features[np.sort(np.random.default_rng(0).choice(len(features), rows, replace=False))])
