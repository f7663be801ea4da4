"""Which figures compare two sets of features, each with its interval, its floor, and a word where it means nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.intervals import bears_halves, half_of, half_sample_interval
from polypforge.evaluation.images.diversity import vendi_score
from polypforge.evaluation.images.frechet import frechet, frechet_infinity
from polypforge.evaluation.images.kernel import cmmd, kid
from polypforge.evaluation.images.manifold import NEIGHBOURS, manifold_measures

Features = NDArray[np.float32]
Groups = tuple[NDArray, NDArray]
MOST_FOR_PAIRS = 4000  # figures that look at all pairs take a random part of larger sets
MOST_FOR_MOMENTS = 20_000  # so does the interval of a Fréchet distance
VENDI_ROWS = 1000
LEAST_FOR_INTERVAL = 2 * (NEIGHBOURS + 1)  # a half must still have neighbours
LEAST_FOR_LIMIT = 50


@dataclass(frozen=True)
class Figure:
    """measure of `pictures` (frame or lesion) by `extractor` (with its resizing). real, made: how many were looked at. value: None where
    it would mean nothing, and `note` says why. interval: 95 %, over the choice of groups of pictures. floor: the value of two random parts
    of the real set with no group in common, the second as large as the made set, or half of the real one if that is smaller."""

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
    """Figures that come from one look at two sets. least: fewest pictures of either set for which they mean anything. rows: most that are
    looked at. whole: its value, not its interval, takes all pictures however many. shares: which of them lie in 0..1. too_few: what is
    said below `least`."""

    names: tuple[str, ...]
    statistic: Callable[[Features, Features], Sequence[float]]
    least: int
    rows: int = MOST_FOR_PAIRS
    whole: bool = False
    shares: tuple[str, ...] = ()
    too_few: str = "are too few"

    def figures(self, real: Features, made: Features, groups: Groups, pictures: str, extractor: str) -> list[Figure]:
        n, m = len(real), len(made)
        if min(n, m) < self.least:
            note = f"{min(n, m)} pictures {self.too_few}"
            return [Figure(name, pictures, extractor, n, m, None, note=note) for name in self.names]
        rows = [_some(len(x), self.rows) for x in (real, made)]
        (a, b), (of_a, of_b) = ([np.asarray(x[r]) for x, r in zip(both, rows, strict=True)] for both in ((real, made), groups))
        values = self._of(real, made) if self.whole else self._of(a, b)
        low = high = floor = None
        if min(len(a), len(b)) >= LEAST_FOR_INTERVAL and bears_halves(of_a) and bears_halves(of_b):
            low, high = half_sample_interval(values, lambda i, j: self._of(a[i], b[j]), (of_a, of_b))
            second = half_of(of_a, np.random.default_rng(0))
            first, second = np.setdiff1d(np.arange(len(a)), second), second[_some(len(second), len(b))]
            if min(len(first), len(second)) >= self.least:
                floor = self._of(a[first], a[second])
        found = []
        for k, name in enumerate(self.names):
            interval = None
            if low is not None and high is not None:
                ends = float(low[k]), float(high[k])
                interval = (max(0.0, ends[0]), min(1.0, ends[1])) if name in self.shares else ends
            limit = float(floor[k]) if floor is not None else None
            looked = (n, m) if self.whole else (len(a), len(b))
            found.append(Figure(name, pictures, extractor, *looked, float(values[k]), interval, limit))
        return found

    def _of(self, real: Features, made: Features) -> NDArray[np.float64]:
        return np.array(self.statistic(real, made), np.float64)


KID = Measure(("kid",), lambda a, b: [kid(a, b)], 2)


def measures_for(width: int, clip: bool) -> list[Measure]:
    """Of features with `width` dimensions; CMMD for CLIP embeddings."""
    no_moments = f"have no full covariance in {width} dimensions: read KID instead"
    found = [
        Measure(("frechet",), lambda a, b: [frechet(a, b)], width + 1, MOST_FOR_MOMENTS, whole=True, too_few=no_moments),
        KID,
    ]
    if clip:
        found.append(Measure(("cmmd",), lambda a, b: [cmmd(a, b)], 2))
    manifold = ("precision", "recall", "density", "coverage")
    shares = tuple(name for name in manifold if name != "density")
    return [*found, Measure(manifold, lambda a, b: _in_order(manifold_measures(a, b), manifold), LEAST_FOR_INTERVAL, shares=shares)]


def compare_features(
    real: Features, made: Features, pictures: str, extractor: str, clip: bool = False, groups: Groups | None = None
) -> list[Figure]:
    """Fréchet distance and its limit, KID, precision, recall, density, coverage, Vendi score; CMMD for CLIP embeddings.

    groups: of each set's pictures (n,), those of one patient, video or source frame; None: all are independent."""
    n, m = len(real), len(made)
    groups = groups or (np.arange(n), np.arange(m))
    found = [f for measure in measures_for(real.shape[1], clip) for f in measure.figures(real, made, groups, pictures, extractor)]
    if found[0].value is not None and min(n, m) >= LEAST_FOR_LIMIT:
        found.insert(1, Figure("frechet_infinity", pictures, extractor, n, m, frechet_infinity(real, made)))
    if m >= 2 and not extractor.startswith("random_vgg"):  # what never learned gives nearly parallel features
        found.append(
            Figure("vendi", pictures, extractor, n, min(m, VENDI_ROWS), vendi_score(_part(made, VENDI_ROWS)), floor=_vendi(real, m))
        )
    return found


def _in_order(values: dict[str, float], names: Sequence[str]) -> list[float]:
    return [values[name] for name in names]


def _vendi(real: Features, count: int) -> float | None:
    """Of as many real ones."""
    rows = min(count, VENDI_ROWS)
    return vendi_score(_part(real, rows)) if len(real) >= rows else None


def _part(features: Features, rows: int) -> Features:
    """A random part, read into memory."""
    return np.asarray(features[_some(len(features), rows)])


def _some(count: int, most: int) -> NDArray[np.int64] | slice:
    """A random choice of at most `most` rows."""
    return slice(None) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False))
