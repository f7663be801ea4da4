"""Places for lesions: references measured once and searched, against Polyp-Gen's program, which starts anew for each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors

from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.features import load_encoder
from polypforge.features.frames import FeatureStore, FrameFeatures, encode
from polypforge.proposals.database import ReferenceDatabase
from polypforge.proposals.proposer import Proposer, ProposerConfig
from polypforge.proposals.retrieval import lesion_cells
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.encoder import open_encoder
from polypforge.workflows.references import describe

ENCODER = "starter:encoder"
REFERENCES, FRAMES, NEIGHBOURS = 300, 24, 5


def proposals(setting: Setting) -> Contest:
    known = setting.frames
    device = str(setting.device)
    encoder = open_encoder(ENCODER, device)
    features = [f for _, f in FeatureStore(encoder).features((c.name, c.image) for c in known)]
    database = fill(setting.scratch / "references", known, features, REFERENCES)

    def ours() -> None:
        opened = open_encoder(ENCODER, device)
        proposer = Proposer(ReferenceDatabase.open(database.folder, opened), ProposerConfig())
        cases = list(varied(known, FRAMES))
        for case, (_, found) in zip(cases, FeatureStore(opened).features((c.name, c.image) for c in cases), strict=True):
            proposer.propose(prepare(case), found)

    def original() -> None:
        opened = open_encoder(ENCODER, device)
        for k in range(REFERENCES):
            encode(opened, [known[k % len(known)].image])
        original_search(encode(opened, [known[0].image])[0], database.vectors(), database)

    return Contest(
        "proposals",
        f"a frame of {setting.side_px} px, {REFERENCES} references",
        [Side(f"{FRAMES} frames, features once, database opened once", ours, FRAMES), Side("as Polyp-Gen's program, a frame", original, 1)],
        "the same encoder; grows with the references on their side only",
    )


def varied(frames: Sequence[Case], count: int) -> Iterator[Case]:
    """`count` different frames: the given ones, each time a little darker."""
    for i in range(count):
        case = frames[i % len(frames)]
        dim = 1 - 0.25 * (i // len(frames)) / max(1, count // len(frames))
        yield Case(f"frame-{i}", (case.image * dim).astype(np.uint8), case.mask)


def fill(folder: Path, frames: Sequence[Case], features: Iterable[FrameFeatures], count: int) -> ReferenceDatabase:
    """A database of `count` references: the frames' features, each moved by noise."""
    encoder = load_encoder(ENCODER)
    database = ReferenceDatabase.create(folder, encoder, {})
    rng = np.random.default_rng(0)
    known = [(describe(c, ""), c, f) for c, f in zip(frames, features, strict=True) if c.mask is not None and c.mask.any()]
    for start in range(0, count, 500):
        references, images, held = [], [], []
        for i in range(start, min(count, start + 500)):
            reference, case, f = known[i % len(known)]
            patches = f.patches + rng.normal(0, 0.02, f.patches.shape).astype(np.float16)
            vector = f.vector + rng.normal(0, 0.02, f.vector.shape).astype(np.float32)
            references.append(type(reference)(f"reference-{i}", f"group-{i}", str(i), *tuple(vars(reference).values())[3:]))
            images.append(case.image[:16, :16])
            held.append(FrameFeatures(vector / np.linalg.norm(vector), patches, f.cell_px))
        database.add(references, images, held)
    return database


def original_search(query: FrameFeatures, vectors: NDArray[np.float32], database: ReferenceDatabase) -> None:
    """The program's search for one frame, once features are there: neighbours of the frame, then of each patch in each candidate."""
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(vectors).kneighbors(query.vector[None], return_distance=False)[0]
    for row in nearest:
        theirs = database.patches(int(row)).astype(np.float32)
        mask = lesion_cells(database.references[int(row)], theirs.shape[:2]).ravel() > 0
        mine = query.patches.reshape(-1, theirs.shape[-1]).astype(np.float32)
        distance, match = NearestNeighbors(n_neighbors=1).fit(theirs.reshape(len(mask), -1)).kneighbors(mine)
        kept = np.flatnonzero(mask[match[:, 0]])
        best = kept[np.argsort(distance[kept, 0])[:30]]
        if len(best):
            cells = np.stack(np.unravel_index(best, query.patches.shape[:2]), 1)
            np.bincount(DBSCAN(eps=2.05, min_samples=1).fit_predict(cells)).argmax()
