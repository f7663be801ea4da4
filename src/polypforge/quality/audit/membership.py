"""Can the model's own errors tell which real cases it learned from? A membership-inference attack by loss (Yeom et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case
from polypforge.models.trainable import Trainable

DRAWS = 8  # random windows, noises and noise levels a case; the same for all cases
LEAST = 10


@dataclass(frozen=True)
class MembershipResult:
    """auc: 0.5 betrays nothing; interval: 95 %, bootstrap over cases. advantage: true less false positive rate at the best threshold.
    at_1_percent: true positive rate at 1 % false positives (what matters to a patient: Carlini et al. 2022)."""

    auc: float
    interval: tuple[float, float]
    advantage: float
    at_1_percent: float
    members: int
    others: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def case_losses(model: Trainable, cases: Sequence[Case], draws: int = DRAWS) -> list[float | None]:
    """Mean loss of each case over `draws` training examples drawn from it; None where it can't train the model."""
    model.eval()
    device = next(model.parameters()).device
    losses: list[float | None] = []
    for case in cases:
        pool = model.prepare([case])
        if not len(pool):
            losses.append(None)
            continue
        batch = {k: v.to(device) for k, v in model.training_batch(pool, draws, numpy_rng(0, "membership")).items()}
        losses.append(float(model.loss(batch, torch.Generator().manual_seed(0))[0]))
    return losses


def membership(members: Sequence[float], others: Sequence[float], resamples: int = 1000) -> MembershipResult:
    """The attack from losses of training cases and of cases that the model never saw. Raises ValueError below LEAST of either."""
    if min(len(members), len(others)) < LEAST:
        raise ValueError(f"a membership attack needs at least {LEAST} training cases and as many that were never seen")
    scores = -np.concatenate([members, others])
    truth = np.repeat([1, 0], [len(members), len(others)])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([rng.integers(0, len(members), len(members)), len(members) + rng.integers(0, len(others), len(others))])
        drawn.append(roc_auc_score(truth[rows], scores[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    levels = np.unique(scores)
    hit = (scores[: len(members), None] >= levels).mean(0)
    false = (scores[len(members) :, None] >= levels).mean(0)
    at = float(hit[false <= 0.01].max(initial=0.0))
    return MembershipResult(
        float(roc_auc_score(truth, scores)), (float(low), float(high)), float((hit - false).max()), at, len(members), len(others)
    )
