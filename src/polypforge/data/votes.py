"""Which pictures share local features with a query? Each of its features votes for the owners of the nearest ones in one index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 4  # features that each feature of a query votes with
LEAST_COSINE = 0.7
LARGE = 20_000  # features from which the index is built of cells


class VoteIndex:
    """descriptors: of each picture (n, 128) float32 of unit length. Deterministic."""

    def __init__(self, descriptors: Sequence[NDArray[np.float32]]) -> None:
        self.count = len(descriptors)
        self._owner = np.repeat(np.arange(self.count), [len(d) for d in descriptors])
        stacked = np.concatenate(descriptors) if len(self._owner) else np.zeros((0, 128), np.float32)
        self._index: Any = faiss.IndexFlatIP(128)
        if len(stacked) > LARGE:
            cells = int(4 * np.sqrt(len(stacked)))
            kind = faiss.ScalarQuantizer.QT_8bit
            self._index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(128), 128, cells, kind, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.niter = 8
            self._index.train(stacked[:: max(1, len(stacked) // (40 * cells))])
            self._index.nprobe = 12
        if len(stacked):
            self._index.add(stacked)

    def votes(self, descriptors: NDArray[np.float32], own: int | None = None) -> NDArray[np.float64]:
        """(count,) weight of the votes for each picture. own: number of the query, whose features find themselves first."""
        weights = np.zeros(self.count)
        if len(descriptors) and len(self._owner):
            near, found = self._index.search(descriptors, NEIGHBOURS + (own is not None))
            owners = np.where(found >= 0, self._owner[found], -1)
            counts = (owners >= 0) & (owners != (-1 if own is None else own))
            np.add.at(weights, owners[counts], np.maximum(near[counts] - LEAST_COSINE, 0))
        return weights
