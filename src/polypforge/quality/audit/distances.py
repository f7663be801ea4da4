"""Does a whole synthetic set keep closer to the training set than new real data would?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.cluster import KMeans

from polypforge.core.intervals import wilson_interval

Features = NDArray[np.float32]
LEAST_IN_CELL = 5
MIFID_TAU = 0.1  # cosine distance below which MiFID punishes (Bai et al. 2021)


@dataclass(frozen=True)
class SetDistances:
    """c_t: Z score, below -3 the set copies, above 3 it underfits (Meehan et al. 2020); None where a cell has too few. authenticity: share
    of cases farther from their nearest training case than that one is from its own nearest (Alaa et al. 2022), with its 95 % interval.
    mifid_distance: mean cosine distance to the nearest training case; mifid_penalty: the factor by which MiFID multiplies a FID.
    heldout_*: the same of held-out real data."""

    c_t: float | None
    cells: int
    authenticity: float
    authenticity_interval: tuple[float, float]
    heldout_authenticity: float | None
    mifid_distance: float
    heldout_mifid_distance: float | None
    mifid_penalty: float
    train: int
    heldout: int
    synthetic: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def set_distances(train: Features, heldout: Features, synthetic: Features, seed: int = 0) -> SetDistances:
    """Of features (n, D). Raises ValueError for fewer than two training cases or no synthetic one; `heldout` may be empty."""
    if len(train) < 2 or not len(synthetic):
        raise ValueError("set-level distances need at least two training cases and a synthetic one")
    authentic = authenticity(train, synthetic)
    kept = int(authentic.sum())
    distance = float((1 - _unit(synthetic) @ _unit(train).T).min(1).mean())
    c_t, cells = c_t_score(train, heldout, synthetic, seed=seed) if len(heldout) else (None, 0)
    return SetDistances(
        c_t,
        cells,
        kept / len(synthetic),
        wilson_interval(kept, len(synthetic)),
        float(authenticity(train, heldout).mean()) if len(heldout) else None,
        distance,
        float((1 - _unit(heldout) @ _unit(train).T).min(1).mean()) if len(heldout) else None,
        1 / (distance + 1e-6) if distance < MIFID_TAU else 1.0,
        len(train),
        len(heldout),
        len(synthetic),
    )


def authenticity(train: Features, other: Features) -> NDArray[np.bool_]:
    """(n,) True where a case of `other` is farther from its nearest training case than that one from its nearest fellow."""
    between = squared(other, train)
    among = squared(train, train)
    np.fill_diagonal(among, np.inf)
    nearest = between.argmin(1)
    return between[np.arange(len(other)), nearest] > among.min(1)[nearest]


def c_t_score(train: Features, heldout: Features, synthetic: Features, cells: int | None = None, seed: int = 0) -> tuple[float | None, int]:
    """(C_T, cells used): Mann-Whitney Z of nearest-training distances, synthetic against held-out, averaged over cells of the training
    set by their share of held-out cases. Cells with fewer than LEAST_IN_CELL of either are left out."""
    wanted = cells or max(1, min(8, len(heldout) // 25, len(train)))
    means = KMeans(wanted, n_init=4, random_state=seed).fit(train)
    to_train = [squared(x, train).min(1) for x in (heldout, synthetic)]
    homes = [means.predict(x) for x in (heldout, synthetic)]
    total, weight, used = 0.0, 0, 0
    for cell in range(wanted):
        held, made = (d[h == cell] for d, h in zip(to_train, homes, strict=True))
        if min(len(held), len(made)) >= LEAST_IN_CELL:
            total += len(held) * mann_whitney_z(made, held)
            weight += len(held)
            used += 1
    return (total / weight, used) if weight else (None, 0)


def mann_whitney_z(a: NDArray, b: NDArray) -> float:
    """Z of the rank sum of `a`: negative when `a` is smaller than `b`. Ties share their ranks."""
    ranks = rankdata(np.concatenate([a, b]))
    u = ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2
    spread = np.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)
    return float((u - len(a) * len(b) / 2) / spread)


def squared(a: Features, b: Features) -> NDArray[np.float64]:
    """(n, m) squared Euclidean distances."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T, 0)


def _unit(features: Features) -> Features:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
