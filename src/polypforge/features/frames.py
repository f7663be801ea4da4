"""Features of whole frames: computed once, in batches, and kept on disk by the frame's content and the encoder's version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from polypforge.core.errors import UserError
from polypforge.core.files import whole_file
from polypforge.core.types import Image
from polypforge.features.base import Encoder
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference


@dataclass(frozen=True)
class FrameFeatures:
    """vector: (D,) float32, the mean of the patch features, unit length (Polyp-Gen's global feature). patches: (h, w, D) float16, unit
    length; cell (i, j) covers the square of `cell_px` frame pixels whose upper left corner is (j, i) * cell_px."""

    vector: NDArray[np.float32]
    patches: NDArray[np.float16]
    cell_px: float


def frame_key(image: Image) -> str:
    """16 hexadecimal digits: the hash of a frame's pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:16]


def fit_square(image: Image, side: int) -> Image:
    """(side, side, 3): the frame scaled to a longer side of `side`, in the upper left corner, black beside it."""
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[: size[1], : size[0]] = small
    return canvas


@torch.inference_mode()
def encode(encoder: Encoder, images: list[Image]) -> list[FrameFeatures]:
    """Features of a few frames in one pass. Raises UserError for a frame smaller than one patch."""
    for image in images:
        if min(image.shape[:2]) < encoder.patch_px:
            raise UserError(f"a frame of {image.shape[1]}x{image.shape[0]} px is smaller than one patch ({encoder.patch_px} px).")
    device = next(encoder.parameters()).device
    batch = to_unit(np.stack([fit_square(i, encoder.look_px) for i in images])).to(device)
    with fast_inference(device):
        grids = encoder.patches(batch).half().cpu().numpy()
    found = []
    for image, grid in zip(images, grids, strict=True):
        cell_px = max(image.shape[:2]) / grid.shape[0]
        # Cells beside the frame show padding; a cell that is partly frame counts.
        own = grid[: int(np.ceil(image.shape[0] / cell_px - 0.01)), : int(np.ceil(image.shape[1] / cell_px - 0.01))]
        mean = own.reshape(-1, own.shape[-1]).astype(np.float32).mean(0)
        found.append(FrameFeatures(mean / max(float(np.linalg.norm(mean)), 1e-6), np.ascontiguousarray(own), cell_px))
    return found


class FeatureStore:
    """A folder of features of one encoder version: `folder/VERSION/ab/KEY.safetensors`. Without a folder nothing is kept."""

    def __init__(self, encoder: Encoder, folder: Path | None = None, batch_size: int = 16) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.root = folder / f"{encoder.version}-{encoder.look_px}" if folder else None

    def features(self, frames: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, FrameFeatures]]:
        """(name, features) of (name, image), in order. No more than a batch of frames is held."""
        waiting: list[tuple[str, str, Image | FrameFeatures]] = []
        for name, image in frames:
            key = frame_key(image)
            waiting.append((name, key, self._stored(key) or image))
            if len(waiting) == self.batch_size:
                yield from self._flush(waiting)
                waiting = []
        yield from self._flush(waiting)

    def _flush(self, waiting: list[tuple[str, str, Image | FrameFeatures]]) -> Iterator[tuple[str, FrameFeatures]]:
        fresh = [(key, x) for _, key, x in waiting if not isinstance(x, FrameFeatures)]
        made = dict(zip([k for k, _ in fresh], encode(self.encoder, [x for _, x in fresh]), strict=True)) if fresh else {}
        for key, features in made.items():
            self._keep(key, features)
        for name, key, x in waiting:
            yield name, x if isinstance(x, FrameFeatures) else made[key]

    def _path(self, key: str) -> Path | None:
        return self.root / key[:2] / f"{key}.safetensors" if self.root else None

    def _stored(self, key: str) -> FrameFeatures | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            held = load_file(path)
            return FrameFeatures(held["vector"], held["patches"], float(held["cell_px"]))
        except (SafetensorError, KeyError, OSError):  # a cache is no data: what can't be read is computed again
            return None

    def _keep(self, key: str, features: FrameFeatures) -> None:
        path = self._path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                cell = np.array(features.cell_px, np.float64)
                save_file({"vector": features.vector, "patches": features.patches, "cell_px": cell}, temporary)
