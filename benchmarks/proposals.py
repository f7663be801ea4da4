"""Proposals: ours against the original way, in one process; and search among a million references.

    python benchmarks/proposals.py --frames 1000 --references 10000 --million

The original way (Polyp-Gen's program), for each frame: the encoder is loaded, the features of all references are computed anew, and
scikit-learn finds neighbours, first of the frame, then of each patch in each candidate. Each of its parts is timed on a few frames and
references, and multiplied: a full run would take days. Told, too, for a kinder reading in which the references' features are stored
and only read and indexed again for each frame. Ours is timed over all frames. Frames are phantoms; features are the shipped encoder's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.features import load_encoder
from polypforge.features.frames import FeatureStore, FrameFeatures, encode
from polypforge.phantom.render import render
from polypforge.proposals.database import ReferenceDatabase
from polypforge.proposals.index import VectorIndex
from polypforge.proposals.proposer import Proposer, ProposerConfig
from polypforge.workflows.bench.proposals import ENCODER, fill, original_search, varied

RENDERED = 40


def million(count: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, dim))
    vectors = (centres[rng.integers(2000, size=count)] + 0.7 * rng.normal(size=(count, dim))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    started = time.perf_counter()
    index = VectorIndex.create(vectors, "hnsw")
    built = time.perf_counter() - started
    recall = index.recall(vectors)
    queries = vectors[rng.integers(count, size=300)] + (0.3 / np.sqrt(dim) * rng.normal(size=(300, dim))).astype(np.float32)
    each = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], 5)
        each.append(time.perf_counter() - started)
    print(
        f"| {count:,} references, hnsw | {1000 * np.median(each):.2f} ms a search (95 %: {1000 * np.quantile(each, 0.95):.2f}), recall@5 "
        f"{recall:.3f}, built in {built:.0f} s |"
    )


def propose_on(cases: Iterator[Case], proposer: Proposer, store: FeatureStore, every: int = 0) -> tuple[int, list[tuple[int, float]]]:
    """(proposals made, [(frames done, resident GB)] after each `every` frames): one batch of frames is held at a time."""
    held: list[Case] = []

    def told():
        for case in cases:
            held.append(case)
            yield case.name, case.image

    found, resident = 0, []
    for done, (_, features) in enumerate(store.features(told()), 1):
        found += len(proposer.propose(prepare(held.pop(0)), features))
        if every and done % every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append((done, pages * resource.getpagesize() / 1e9))
    return found, resident


def memory(frames: list[Case], features: list[FrameFeatures], references: int, most: int) -> None:
    """Resident memory as more and more frames are worked on (Linux)."""
    with tempfile.TemporaryDirectory() as place:
        database = fill(Path(place) / "database", frames, features, references)
        proposer, store = Proposer(database, ProposerConfig()), FeatureStore(load_encoder(ENCODER))
        _, resident = propose_on(varied(frames, most), proposer, store, most // 8)
    print(f"| frames done ({references:,} references) | resident memory |\n| --- | --- |")
    for done, size in resident:
        print(f"| {done:,} | {size:.2f} GB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--memory", action="store_true", help="only the memory over --frames frames")
    given = parser.parse_args()
    frames = [render(5000 + i, 320, polyps=1) for i in range(RENDERED)]
    encoder = load_encoder(ENCODER)
    features = [f for _, f in FeatureStore(encoder).features((c.name, c.image) for c in frames)]
    if given.memory:
        memory(frames, features, given.references, given.frames)
        return
    with tempfile.TemporaryDirectory() as place:
        database = fill(Path(place) / "database", frames, features, given.references)

        started = time.perf_counter()
        encoder = load_encoder(ENCODER)
        database = ReferenceDatabase.open(database.folder, encoder)
        proposer, store = Proposer(database, ProposerConfig()), FeatureStore(encoder)
        found, _ = propose_on(varied(frames, given.frames), proposer, store)
        ours = time.perf_counter() - started

        few = 5
        started = time.perf_counter()
        for _ in range(few):
            load_encoder(ENCODER)
        loading = (time.perf_counter() - started) / few
        started = time.perf_counter()
        for case in frames:
            encode(encoder, [case.image])
        encoding = (time.perf_counter() - started) / len(frames)
        vectors = database.vectors()
        started = time.perf_counter()
        for _ in range(few):
            database.vectors()
        reading = (time.perf_counter() - started) / few
        started = time.perf_counter()
        for query in features[:few]:
            original_search(query, vectors, database)
        searching = (time.perf_counter() - started) / few
    whole = given.frames * (loading + (given.references + 1) * encoding + searching)
    kind = given.frames * (loading + encoding + reading + searching)
    print(f"| {given.frames:,} frames, {given.references:,} references | seconds | ratio |\n| --- | --- | --- |")
    print(f"| ours, features included ({found:,} proposals) | {ours:.1f} | 1 |")
    print(f"| original way, references encoded for each frame (computed from its parts) | {whole:,.0f} | {whole / ours:,.0f} |")
    print(f"| the same, references' features stored (computed from its parts) | {kind:,.0f} | {kind / ours:.1f} |")
    if given.million:
        million(1_000_000, vectors.shape[1])


if __name__ == "__main__":
    main()
