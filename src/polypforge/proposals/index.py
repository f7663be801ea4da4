"""Nearest vectors by faiss: exact for few, a graph for many, compressed cells for very many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from polypforge.core.errors import UserError
from polypforge.core.files import whole_file
from polypforge.core.seeding import numpy_rng

KINDS = ("flat", "hnsw", "ivfpq")
FLAT_UP_TO, HNSW_UP_TO = 20_000, 2_000_000
IVFPQ_LEAST = 1000  # rows that its codes can be learned from
RECALL_QUERIES, RECALL_NOISE = 200, 0.3


def kind_for(count: int) -> str:
    """Exact search while it is fast; a graph (all vectors in memory, 1-2 KB each); beyond, codes of one byte for each 4 numbers."""
    return "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivfpq"


class VectorIndex:
    """Unit vectors by their row number; distances are squared Euclidean, 2 - 2 cosine. A graph is built by several threads, so two of the
    same vectors may differ in detail."""

    def __init__(self, index: faiss.Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return self.index.ntotal

    @classmethod
    def create(cls, vectors: NDArray[np.float32], kind: str) -> VectorIndex:
        """An index of `kind` that holds the rows of `vectors` (n, D)."""
        dim = vectors.shape[1]
        if kind == "ivfpq" and len(vectors) < IVFPQ_LEAST:
            raise UserError(f"an ivfpq index needs at least {IVFPQ_LEAST} references, not {len(vectors)}: leave --index out.")
        if kind == "flat":
            index: Any = faiss.IndexFlatL2(dim)
        elif kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, 32)
            index.hnsw.efConstruction, index.hnsw.efSearch = 80, 96
        elif kind == "ivfpq":
            cells = max(1, min(int(4 * np.sqrt(len(vectors))), len(vectors) // 39))
            pieces = next(m for m in range(dim // 4 or 1, 0, -1) if dim % m == 0)
            bits = 8 if len(vectors) >= 39 * 256 else 4
            index = faiss.index_factory(dim, f"IVF{cells},PQ{pieces}x{bits},RFlat")
            faiss.extract_index_ivf(index.base_index).nprobe = max(8, cells // 32)
            index.k_factor = 16
            index.train(vectors)
        else:
            raise UserError(f"there is no index '{kind}': choose one of {', '.join(KINDS)}.")
        index.add(vectors)
        return cls(index)

    def add(self, vectors: NDArray[np.float32]) -> None:
        self.index.add(vectors)

    def search(self, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(distances, rows), each (n, count), nearest first; row -1 where an approximate index found none. count <= len(self)."""
        if count > len(self):
            raise ValueError(f"{count} vectors were asked for, of {len(self)}")
        return self.index.search(np.ascontiguousarray(vectors, np.float32), count)

    def recall(self, vectors: NDArray[np.float32], count: int = 5) -> float:
        """Share of the exact nearest `count` that the index finds, for rows of `vectors` (all that it holds) moved by a little noise."""
        rng = numpy_rng("index recall", len(vectors))
        picks = rng.integers(len(vectors), size=min(RECALL_QUERIES, len(vectors)))
        queries = vectors[picks] + RECALL_NOISE / np.sqrt(vectors.shape[1]) * rng.normal(size=(len(picks), vectors.shape[1]))
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        count = min(count, len(vectors))
        exact = faiss.IndexFlatL2(vectors.shape[1])
        exact.add(vectors)
        truth, found = exact.search(queries, count)[1], self.search(queries, count)[1]
        return float(np.mean([len(set(a) & set(b)) / count for a, b in zip(truth.tolist(), found.tolist(), strict=True)]))

    def save(self, path: Path) -> None:
        with whole_file(path) as temporary:
            faiss.write_index(self.index, str(temporary))

    @classmethod
    def open(cls, path: Path) -> VectorIndex:
        """Raises UserError for a file that faiss can't read."""
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            raise UserError(f"{path} is damaged and no index that faiss reads: build the database again.") from error
