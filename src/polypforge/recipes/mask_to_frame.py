"""What recipes share that draw whole frames for masks: their training examples, and where the mask of a request comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.types import Case, Mask
from polypforge.data.prepared import Prepared, prepare
from polypforge.masks.shapes import polygon_mask
from polypforge.models.pixels import to_planes, to_unit
from polypforge.recipes.base import Batch, Job, Recipe
from polypforge.recipes.windows import square_around, square_window


def asked_mask(job: Job, size_px: int) -> Mask:
    """(S, S) bool: the lesion polygon of the request, or the mask of the case that it names, in a square that keeps the lesion.

    Raises UserError when there is neither, or nothing of it is left.
    """
    case = job.background
    prepared = prepare(case)
    mask = polygon_mask(list(job.request.lesion), case.size) if job.request.lesion else case.mask
    if mask is None or not mask.any():
        raise UserError(f"request {job.request.id} needs a mask, but '{case.name}' shows no lesion: name a case with a mask.")
    window = square_around(mask) if job.request.lesion else square_window(prepared)
    if window is None:
        raise UserError(f"request {job.request.id}: the lesion is larger than the square that is drawn of '{case.name}'.")
    found = window.crop_mask(mask, size_px)
    if not found.any():
        raise UserError(f"request {job.request.id}: the lesion lies outside '{case.name}'.")
    return np.ascontiguousarray(found)


def with_lesions(cases: Sequence[Case]) -> list[Prepared]:
    """The cases with a mask that shows a lesion, prepared; validation cases may all be normal."""
    return [prepare(case) for case in cases if case.mask is not None and case.mask.any()]


class MaskToFrame(Recipe):
    """Learns from square crops of frames with a mask; `config.size_px` is their side."""

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        return with_lesions(cases)

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1], mask (B, 1, S, S) in {0, 1}: the same random turn, mirror image and crop of both."""
        images, masks = [], []
        for _ in range(batch_size):
            chosen = pool[rng.integers(len(pool))]
            image, mask, _ = chosen.look(square_window(chosen, rng, vary=True), self.config.size_px)
            images.append(image)
            masks.append(mask)
        return {"image": to_unit(np.stack(images)), "mask": to_planes(masks)}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.size_px, self.config.size_px)
        return {"image": (count, 3, *size), "mask": (count, 1, *size)}
