"""Both sets of an evaluation, read once: features of whole frames and of lesions on disk, and what their labels measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from polypforge.core.console import console
from polypforge.core.files import read_jsonl, whole_file, write_jsonl
from polypforge.core.seeding import content_hash
from polypforge.core.types import Case, Image, Mask
from polypforge.core.window import around_mask
from polypforge.data.source import SourceCase, parent_of, state_of
from polypforge.evaluation.masks.shapes import boundary_sharpness, describe
from polypforge.features import Encoder
from polypforge.models.memory import Room
from polypforge.quality.audit.training import lesions_of
from polypforge.quality.judges import Judge, agreement
from polypforge.workflows.cluster import wait_until_seen
from polypforge.workflows.drawn import drawn_lesions

KINDS = ("frame", "lesion")
LESION_PX = 256
LESION_SCALE = 2.0  # window side / longer side of the lesion
LEAST_WINDOW_PX = 64
CASES_AT_ONCE = 32
ROWS = 2  # what rows hold: older ones are not read


@dataclass
class Pictures:
    """One set. features: (encoder name, kind) -> (n, D), a memory map. rows: of each case: name, size of the frame, whether it shows a
    lesion (those have features, in order), and what that lesion measures: of a synthetic case the drawn one, else the largest."""

    cases: Sequence[SourceCase]
    features: dict[tuple[str, str], NDArray[np.float32]]
    rows: list[dict[str, Any]]

    def count(self, kind: str) -> int:
        return len(self.rows) if kind == "frame" else sum(row["lesion"] for row in self.rows)

    def shown(self, kind: str) -> list[SourceCase]:
        """The cases of that kind's pictures, in order."""
        return [c for c, row in zip(self.cases, self.rows, strict=True) if kind == "frame" or row["lesion"]]

    def groups(self, kind: str) -> NDArray:
        """(count,) of each picture the patient, video or scene (a synthetic one has that of its background), or its frame."""
        return np.array([witness(c) for c in self.shown(kind)])


def stamps(encoders: Sequence[Encoder]) -> list[str]:
    """Name and version of each: features of other stamps are other features."""
    return [f"{e.name} {e.version}" for e in encoders]


def lesion_picture(source: SourceCase, case: Case) -> tuple[Image, Mask] | None:
    """The largest lesion (of a synthetic case: the one that was drawn) in its surroundings, (LESION_PX, LESION_PX, 3), and its mask."""
    parts = drawn_lesions(source, case) if source.provenance.get("synthetic") else list(lesions_of(case))
    if not parts:
        return None
    return around_mask(parts[0], LESION_SCALE, LEAST_WINDOW_PX).crop(case.image, LESION_PX), parts[0]


Chunk = tuple[int, Sequence[SourceCase]]  # its number, and its cases
Spread = Callable[[Path, Sequence[Chunk]], Iterable[int]]  # reads chunks into a folder, in any order; gives their sizes


def read_pictures(
    what: str,
    cases: Sequence[SourceCase],
    encoders: Sequence[Encoder],
    judge: Judge | None,
    judge_version: str,
    cache: Path,
    device: str,
    spread: Spread | None = None,
) -> Pictures:
    """Features and measures of all cases, CASES_AT_ONCE in memory. What `cache` holds of the same files and networks is used again.

    spread: who reads, by default this process.
    """
    folder = cache / content_hash([stamps(encoders), judge_version, state_of(cases), ROWS])
    cache.mkdir(parents=True, exist_ok=True)
    chunks = [cases[i : i + CASES_AT_ONCE] for i in range(0, len(cases), CASES_AT_ONCE)]
    columns = (TextColumn(f"looking at {what} cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    todo = [(k, chunk) for k, chunk in enumerate(chunks) if not _chunk_file(folder, k).is_file()]
    reader = PictureReader(encoders, judge, folder, device)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("look", total=len(cases), completed=len(cases) - sum(len(c) for _, c in todo))
        for count in spread(folder, todo) if spread else map(reader.run, todo):
            bar.advance(task, count)
    wait_until_seen(lambda: sum(not _chunk_file(folder, k).is_file() for k in range(len(chunks))), "parts", folder)
    rows = [row for k in range(len(chunks)) for row in read_jsonl(folder / f"{k:06d}.jsonl")]
    return Pictures(
        cases, {(e.name, kind): _gathered(folder, len(chunks), k, kind) for k, e in enumerate(encoders) for kind in KINDS}, rows
    )


class PictureReader:
    """Reads one chunk of cases after another into `folder`."""

    def __init__(self, encoders: Sequence[Encoder], judge: Judge | None, folder: Path, device: str) -> None:
        self.encoders, self.judge, self.folder, self.device = encoders, judge, folder, device
        self.room = Room(CASES_AT_ONCE)

    def run(self, chunk: Chunk) -> int:
        number, sources = chunk
        with ThreadPoolExecutor(2) as pool:
            loaded = list(pool.map(lambda c: c.load(), sources))
        found, rows = _look(sources, loaded, self.encoders, self.judge, self.device, self.room)
        done = _chunk_file(self.folder, number)
        write_jsonl(done.with_suffix(".jsonl"), rows)
        with whole_file(done) as temporary:
            save_file(found, temporary)
        return len(sources)


def _chunk_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _look(
    sources: Sequence[SourceCase], cases: Sequence[Case], encoders: Sequence[Encoder], judge: Judge | None, device: str, room: Room
) -> tuple[dict[str, NDArray[np.float32]], list[dict[str, Any]]]:
    lesions = [lesion_picture(s, c) for s, c in zip(sources, cases, strict=True)]
    agrees: dict[int, float] = {}
    if judge is not None:
        shown = [
            (k, c.image, c.mask, found[1]) for k, (c, found) in enumerate(zip(cases, lesions, strict=True)) if found and c.mask is not None
        ]
        if shown:
            which, images, masks, parts = zip(*shown, strict=True)
            agrees = dict(zip(which, agreement(judge, images, masks, parts), strict=True))
    rows = []
    for k, (source, case, found) in enumerate(zip(sources, cases, lesions, strict=True)):
        row: dict[str, Any] = {"name": source.name, "size": list(case.size), "lesion": found is not None}
        if found is not None and case.mask is not None:
            row |= {"drawn": describe(found[1]), "sharpness": boundary_sharpness(case.image, found[1]), "agreement": agrees.get(k)}
        rows.append(row)
    pictures = {"frame": [c.image for c in cases], "lesion": [found[0] for found in lesions if found is not None]}

    def features(encoder: Encoder, shown: Sequence[Image]) -> NDArray[np.float32]:
        found: list[NDArray[np.float32]] = room.run(partial(embed, encoder, device=device), shown)
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    return {f"{k}.{kind}": features(e, pictures[kind]) for k, e in enumerate(encoders) for kind in KINDS}, rows


@torch.inference_mode()
def embed(encoder: Encoder, pictures: Sequence[Image], device: str) -> NDArray[np.float32]:
    """(n, D) float32, in full precision: published figures are."""
    if not pictures:
        return np.zeros((0, 0), np.float32)
    looks = torch.stack([encoder.look(p) for p in pictures]).to(device).contiguous(memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return encoder.vector(looks).float().cpu().numpy()


def _gathered(folder: Path, chunks: int, encoder: int, kind: str) -> NDArray[np.float32]:
    """All chunks of one encoder and kind in one file, mapped, not read."""
    target = folder / f"{encoder}-{kind}.npy"
    if not target.is_file():
        chunk = [_chunk_file(folder, k) for k in range(chunks)]
        shapes = [_shape(path, f"{encoder}.{kind}") for path in chunk]
        width = max((w for _, w in shapes), default=0)
        with whole_file(target) as temporary:
            mapped = np.lib.format.open_memmap(temporary, "w+", np.float32, (sum(n for n, _ in shapes), width))
            start = 0
            for path, (n, _) in zip(chunk, shapes, strict=True):
                if n:
                    mapped[start : start + n] = load_file(path)[f"{encoder}.{kind}"]
                start += n
            mapped.flush()
            del mapped  # some systems rename no file that is open
    return np.load(target, mmap_mode="r")


def _shape(path: Path, key: str) -> tuple[int, int]:
    """From the file's header."""
    with safe_open(path, "np") as stored:
        rows, width = stored.get_slice(key).get_shape()
    return rows, width


def witness(case: SourceCase) -> str:
    """The patient, video or scene (a synthetic case has that of its background), or the frame itself."""
    return case.group or parent_of(case) or case.name


def sampled(
    cases: Sequence[SourceCase], count: int, seed: int, picture: Callable[[SourceCase, Case], Image | None]
) -> tuple[list[Image], list[str]]:
    """Pictures of up to `count` random cases and their witnesses: another one for each picture as long as there are some."""
    order = [cases[k] for k in np.random.default_rng(seed).permutation(len(cases))]
    first = {witness(case): case.name for case in reversed(order)}
    order.sort(key=lambda case: first[witness(case)] != case.name)
    found = [(shown, witness(case)) for case in order[:count] if (shown := picture(case, case.load())) is not None]
    return [shown for shown, _ in found], [name for _, name in found]
