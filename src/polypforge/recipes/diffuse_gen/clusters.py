"""Clusters of cases by the features of their image and mask (diffuse-gen, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from polypforge.core.errors import UserError
from polypforge.data.prepared import Prepared
from polypforge.features import Encoder
from polypforge.models.pixels import to_unit
from polypforge.recipes.windows import square_window

LOOK_PX = 256
BATCH = 16


@torch.inference_mode()
def features(encoder: Encoder, cases: Sequence[Prepared]) -> NDArray[np.float32]:
    """(N, 2 D): the encoder's vector of each image and of its mask drawn in white, each of unit length, side by side."""
    device = next(encoder.parameters()).device
    rows = []
    for start in range(0, len(cases), BATCH):
        looks = [c.look(square_window(c), LOOK_PX)[:2] for c in cases[start : start + BATCH]]
        images = to_unit(np.stack([i for i, _ in looks])).to(device)
        masks = to_unit(np.stack([np.repeat(m[..., None], 3, 2).astype(np.uint8) * 255 for _, m in looks])).to(device)
        parts = [torch.nn.functional.normalize(encoder.vector(x).float(), dim=1) for x in (images, masks)]
        rows.append(torch.cat(parts, 1).cpu().numpy())
    return np.concatenate(rows)


def cluster_centres(rows: NDArray[np.float32], clusters: int, smallest: int, seed: int) -> NDArray[np.float32]:
    """(K, 2 D) centres of KMeans, the same for the same rows and seed. Raises UserError for K above n and for too small clusters."""
    if clusters > len(rows):
        raise UserError(f"{clusters} clusters were asked for {len(rows)} cases: lower model.clusters.")
    found = KMeans(clusters, n_init=10, random_state=seed).fit(rows)
    sizes = np.bincount(found.labels_, minlength=clusters)
    if sizes.min() < smallest:
        raise UserError(
            f"a cluster holds only {sizes.min()} case(s), which its model would learn by heart: lower model.clusters (now {clusters}), or "
            "accept it with model.smallest_cluster."
        )
    return found.cluster_centers_.astype(np.float32)


def nearest_centre(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) index of the nearest centre of each row."""
    return np.linalg.norm(rows[:, None] - centres[None], axis=2).argmin(1)
