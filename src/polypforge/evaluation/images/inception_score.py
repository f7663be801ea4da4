"""Inception score (Salimans et al. 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

SPLITS = 10


def inception_score(logits: NDArray[np.float32], splits: int = SPLITS, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation) over random splits of exp(mean KL(p(y|x) || p(y))) from (n, classes) logits.

    It rewards confident, varied ImageNet classes, which mucosa has none of: reported because papers do. Raises ValueError for fewer
    pictures than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"the Inception score needs at least {splits} pictures")
    order = np.random.default_rng(seed).permutation(len(logits))
    each = log_softmax(logits.astype(np.float64), axis=1)
    scores = []
    for part in np.array_split(order, splits):
        log_p = each[part]
        p = np.exp(log_p)
        scores.append(np.exp((p * (log_p - np.log(p.mean(0, keepdims=True)))).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
