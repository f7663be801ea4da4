"""A critic learns to tell synthetic lesions from real ones: the better it can, the less realistic they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
LEAST = 10  # lesions of each kind


@dataclass(frozen=True)
class CriticResult:
    """auc: 0.5 can't tell, 1 tells always; interval: 95 %, by resampling groups. features: what the critic saw."""

    auc: float
    interval: tuple[float, float]
    real: int
    synthetic: int
    features: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def critic_auc(
    real: NDArray[np.float32], synthetic: NDArray[np.float32], groups: Sequence[str], features: str, resamples: int = 500, seed: int = 0
) -> CriticResult:
    """Cross-validated AUC of logistic regression on standardised features (n, D).

    groups: of the real, then of the synthetic rows; what was made from a real case shares its group, so that the critic never learns
    the background it is tested on. Raises ValueError for fewer than LEAST rows of a kind or FOLDS groups.
    """
    if min(len(real), len(synthetic)) < LEAST or len(set(groups)) < FOLDS:
        raise ValueError(f"a critic needs at least {LEAST} lesions of each kind, from at least {FOLDS} cases")
    values, truth = np.concatenate([real, synthetic]), np.repeat([0, 1], [len(real), len(synthetic)])
    names = np.asarray(groups)
    scores = np.zeros(len(values))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(values, truth, names):
        if len(set(truth[train])) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000, class_weight="balanced"))
            scores[test] = model.fit(values[train], truth[train]).decision_function(values[test])
    rng = np.random.default_rng(seed)
    members = {name: np.flatnonzero(names == name) for name in sorted(set(groups))}
    picks = list(members.values())
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([picks[i] for i in rng.integers(0, len(picks), len(picks))])
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(roc_auc_score(truth[rows], scores[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return CriticResult(float(roc_auc_score(truth, scores)), (float(low), float(high)), len(real), len(synthetic), features)
