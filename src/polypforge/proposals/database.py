"""The reference database: features of frames whose polyps were turned to normal, and what the polyps had been.

A folder: manifest.json; shard-00000/{entries.jsonl, features.safetensors}, more shards as it grows; index-N.faiss over N entries. The
manifest is written last and names what is valid, so a database that was being grown when the power went is what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from polypforge.core.errors import UserError
from polypforge.core.files import inside, read_json, read_jsonl, sha256_of, whole_folder, write_json, write_jsonl
from polypforge.core.images import shrunk_size
from polypforge.core.types import Image
from polypforge.features import Encoder
from polypforge.features.frames import FrameFeatures
from polypforge.proposals.index import VectorIndex, kind_for
from polypforge.proposals.proposal import Polygon

FORMAT = 1
MANIFEST = "manifest.json"
PICTURE_PX = 256
OUTGROWN = 4
PARTS = ("entries.jsonl", "features.safetensors")


@dataclass(frozen=True)
class Reference:
    """One frame without its polyps. name, group: of the real case. key: hash of the real frame's pixels. size: (height, width).
    lesions: outlines of the polyps that were there, in frame pixels; attributes: theirs, in the same order. lumen: (x, y), or None."""

    name: str
    group: str
    key: str
    size: tuple[int, int]
    lesions: tuple[Polygon, ...]
    attributes: tuple[dict[str, float], ...]
    lumen: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Reference:
        lesions = tuple(tuple((int(x), int(y)) for x, y in polygon) for polygon in row["lesions"])
        lumen = tuple(row["lumen"]) if row["lumen"] else None
        return cls(row["name"], row["group"], row["key"], tuple(row["size"]), lesions, tuple(row["attributes"]), lumen)  # type: ignore[arg-type]


def is_database(folder: Path) -> bool:
    manifest = folder / MANIFEST
    return manifest.is_file() and "shards" in read_json(manifest)


class ReferenceDatabase:
    """An open database. `references[i]` belongs to row i of the index and to `patches(i)`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], index: VectorIndex | None, references: list[Reference]) -> None:
        self.folder, self.manifest, self.index, self.references = folder, manifest, index, references
        self._starts = np.cumsum([0] + [s["count"] for s in manifest["shards"]])
        self._open: dict[int, Any] = {}
        self._counted = -1

    def __len__(self) -> int:
        return len(self.references)

    @classmethod
    def create(cls, folder: Path, encoder: Encoder, provenance: dict[str, Any]) -> ReferenceDatabase:
        """An empty database. provenance: how the polyps are turned to normal; another one is another database."""
        manifest = {
            "format": FORMAT, "encoder": encoder.name, "encoder_version": encoder.version, "look_px": encoder.look_px,
            "provenance": provenance, "shards": [], "index": None,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST, manifest)
        return cls(folder, manifest, None, [])

    @classmethod
    def open(cls, folder: Path, encoder: Encoder | None = None) -> ReferenceDatabase:
        """Raises UserError for a damaged database, and for one whose features are of another encoder than the given one. Features are
        checked when they are first read."""
        if not is_database(folder):
            raise UserError(f"{folder} is no reference database: build one with `polypforge references DATA --out {folder}`.")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise UserError(f"{folder} has format {manifest.get('format')} where this version reads {FORMAT}: build it again.")
        if encoder is not None:
            _same_encoder(folder, manifest, encoder)
        references: list[Reference] = []
        index = None
        try:
            for shard in manifest["shards"]:
                path = inside(folder, f"{shard['name']}/entries.jsonl")
                _unharmed(path, shard["sha256"]["entries.jsonl"])
                references += [Reference.from_json(row) for row in read_jsonl(path)]
            if manifest["index"]:
                path = inside(folder, manifest["index"]["file"])
                _unharmed(path, manifest["index"]["sha256"])
                index = VectorIndex.open(path)
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / MANIFEST} is damaged ({error}): restore it, or build the database again.") from error
        if len(index or ()) != len(references):
            raise UserError(f"{folder} is damaged: its index holds {len(index or ())} of {len(references)} references; build it again.")
        return cls(folder, manifest, index, references)

    def add(self, references: Sequence[Reference], frames: Sequence[Image], features: Sequence[FrameFeatures]) -> None:
        """Append a shard and grow the index; nothing stored before is read again. frames: the normal frames; a small picture is kept."""
        if not references:
            return
        name = f"shard-{len(self.manifest['shards']):05d}"
        vectors = np.stack([f.vector for f in features]).astype(np.float32)
        with whole_folder(self.folder / name) as shard:
            write_jsonl(shard / "entries.jsonl", [r.to_json() for r in references])
            held = {"vectors": vectors} | {f"patches_{i:05d}": f.patches for i, f in enumerate(features)}
            save_file(held | {f"picture_{i:05d}": _small(f) for i, f in enumerate(frames)}, shard / "features.safetensors")
        files = {f: sha256_of(self.folder / name / f) for f in PARTS}
        learned = self.manifest["index"]["learned_from"] if self.index is not None else 0
        if self.index is None:
            index, kind = VectorIndex.create(vectors, "flat"), "flat"
        else:
            index, kind = self.index, str(self.kind)
            index.add(vectors)
        self._keep(index, kind, learned, [*self.manifest["shards"], {"name": name, "count": len(references), "sha256": files}])
        self.references += references
        self._starts = np.append(self._starts, self._starts[-1] + len(references))

    @property
    def kind(self) -> str | None:
        """Of the index; None for an empty database."""
        return self.manifest["index"]["kind"] if self.manifest["index"] else None

    def suit_index(self, kind: str | None = None) -> None:
        """Build the index anew if another kind is asked for, or, unasked, suits the present size, or if its codes were learned from a
        quarter of the vectors or less. Raises UserError when there are too few for that kind."""
        if self.index is None:
            return
        wanted = kind or kind_for(len(self))
        outgrown = wanted == "ivfpq" and len(self) >= OUTGROWN * max(1, self.manifest["index"]["learned_from"])
        if wanted != self.kind or outgrown:
            self._keep(VectorIndex.create(self.vectors(), wanted), wanted, len(self), self.manifest["shards"])

    def _keep(self, index: VectorIndex, kind: str, learned_from: int, shards: list[dict[str, Any]]) -> None:
        """Store the index beside the old one, then the manifest that names it, then drop the old one."""
        old = self.manifest["index"]
        path = self.folder / f"index-{kind}-{len(index)}-{learned_from}.faiss"  # never the old one's name: that stays until this one counts
        index.save(path)
        self.index = index
        self.manifest = self.manifest | {
            "shards": shards,
            "index": {"kind": kind, "file": path.name, "sha256": sha256_of(path), "learned_from": learned_from},
        }
        write_json(self.folder / MANIFEST, self.manifest)
        if old and old["file"] != path.name:
            inside(self.folder, old["file"]).unlink(missing_ok=True)

    def vectors(self) -> NDArray[np.float32]:
        """(n, D) of all references."""
        return np.concatenate([self._shard(k).get_tensor("vectors") for k in range(len(self.manifest["shards"]))])

    def patches(self, row: int) -> NDArray[np.float16]:
        """(h, w, D) of one reference; only these are read from disk."""
        return self._stored("patches", row)

    def picture(self, row: int) -> Image:
        """One reference's normal frame, at most PICTURE_PX a side."""
        decoded = cv2.imdecode(self._stored("picture", row), cv2.IMREAD_COLOR)
        if decoded is None:
            raise UserError(f"{self.folder} is damaged: the picture of {self.references[row].name} can't be read; build it again.")
        return np.ascontiguousarray(decoded[..., ::-1])

    def _stored(self, what: str, row: int) -> NDArray:
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._shard(shard).get_tensor(f"{what}_{row - self._starts[shard]:05d}")

    def kin(self, name: str, group: str) -> set[int]:
        """Rows of the case of this name, and of its group, as the caller or the database knows it."""
        if self._counted != len(self.references):
            self._rows: dict[tuple[str, str], set[int]] = {}
            for row, reference in enumerate(self.references):
                for key in (("name", reference.name), ("group", reference.group)):
                    self._rows.setdefault(key, set()).add(row)
            self._counted = len(self.references)
        own = self._rows.get(("name", name), set())
        groups = {g for g in (group, *(self.references[row].group for row in own)) if g}
        return own.union(*(self._rows.get(("group", g), set()) for g in groups))

    def search(self, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `VectorIndex.search`. Raises UserError for an empty database."""
        if self.index is None:
            raise UserError(f"{self.folder} is empty: add frames that show polyps with `polypforge references DATA --out {self.folder}`.")
        return self.index.search(vectors, count)

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            shard = self.manifest["shards"][number]
            path = inside(self.folder, f"{shard['name']}/features.safetensors")
            _unharmed(path, shard["sha256"]["features.safetensors"])  # gigabytes in all: each when it is first needed
            try:
                self._open[number] = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is damaged ({error}): build the database again.") from error
        return self._open[number]


def _small(frame: Image) -> NDArray[np.uint8]:
    """(n,) bytes of a JPEG."""
    _, size = shrunk_size(frame.shape, PICTURE_PX)
    return cv2.imencode(".jpg", cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[..., ::-1])[1].ravel()


def _same_encoder(folder: Path, manifest: dict[str, Any], encoder: Encoder) -> None:
    made = (manifest["encoder_version"], manifest["look_px"])
    if made != (encoder.version, encoder.look_px):
        raise UserError(
            f"{folder} was built with the encoder {manifest['encoder']} (version {made[0]}, {made[1]} px), not with {encoder.name} "
            f"(version {encoder.version}, {encoder.look_px} px): name that one with --encoder, or build the database again."
        )


def _unharmed(path: Path, digest: str) -> None:
    if not path.is_file() or sha256_of(path) != digest:
        raise UserError(f"{path} is missing or damaged (its hash differs from the manifest's): restore it, or build the database again.")
