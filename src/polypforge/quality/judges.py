"""What every judge of labels offers, and judges by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.types import Image, Mask
from polypforge.core.window import Window, around_mask
from polypforge.data.field_of_view import field_of_view
from polypforge.data.prepared import Prepared, draw_case, prepare, random_window
from polypforge.data.recolour import recolour
from polypforge.models.pixels import to_unit
from polypforge.models.trainable import Batch, Trainable
from polypforge.quality.agreement import iou

JUDGES = {
    "window_segmenter": "polypforge.quality.segmenter:WindowSegmenter",
    "latent_segmenter": "polypforge.quality.latent_segmenter:LatentSegmenter",
}
CROSS_FITTED = "cross_fitted"
WINDOW_SCALE = 2.0  # side of the window in which a label is judged / longer side of the lesion
MIN_WINDOW_PX = 64


class Judge(Trainable):
    """Sees a window of a final image and says where the lesion is.

    Its config has window_px (side of its windows), window_scale (range of window side / lesion side in training) and empty_share (share
    of training windows placed without regard to lesions).
    """

    config_class: ClassVar[type]

    def prepare(self, cases) -> list[Prepared]:
        return [prepare(case) for case in cases if case.mask is not None or not case.boxes]

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; mask and field (B, 1, S, S) in {0, 1}. float32."""
        drawn = [draw_window(draw_case(pool, rng), self.config, rng) for _ in range(batch_size)]
        images, masks, fields = (np.stack(part) for part in zip(*drawn, strict=True))
        return {
            "image": to_unit(images),
            "mask": torch.from_numpy(masks).float()[:, None],
            "field": torch.from_numpy(fields).float()[:, None],
        }

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.window_px, self.config.window_px)
        return {"image": (count, 3, *size), "mask": (count, 1, *size), "field": (count, 1, *size)}

    @abstractmethod
    def predict(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, S, S) float32 lesion probability."""

    def predict_in(self, images: Sequence[Image], windows: Sequence[Window]) -> NDArray[np.float32]:
        """Probabilities in one window of each image."""
        size = self.config.window_px
        return self.predict(np.stack([w.crop(i, size) for i, w in zip(images, windows, strict=True)]))

    def for_case(self, name: str) -> Judge:
        """The judge that may judge what was made from the real case `name`: this one, unless it was cross-fitted."""
        return self


def judge_class(name: str) -> type[Judge]:
    if name not in JUDGES:
        raise UserError(f"there is no judge '{name}': choose one of {', '.join(JUDGES)}.")
    module, attribute = JUDGES[name].split(":")
    return getattr(import_module(module), attribute)


def load_judge(folder: Path) -> Judge:
    """The judge that was saved in `folder`, ready to predict. Raises UserError for anything else."""
    config = read_json(folder / "config.json")
    name = config.get("model") if isinstance(config, dict) else None
    if name == CROSS_FITTED:
        return import_module("polypforge.quality.cross_fitted").CrossFitted.load_pretrained(folder).eval()
    if name not in JUDGES:
        raise UserError(f"{folder / 'config.json'} is no judge that `polypforge train` saved: choose one of {', '.join(JUDGES)}.")
    return judge_class(name).load_pretrained(folder).eval()  # type: ignore[return-value]


def agreement(judge: Judge, images: Sequence[Image], masks: Sequence[Mask], lesions: Sequence[Mask] | None = None) -> list[float]:
    """IoU between each mask (not empty) and the prediction in a window around it: the gate's measure, on any labels. lesions: around which
    of the mask's lesions to look."""
    windows = [around_mask(m, WINDOW_SCALE, MIN_WINDOW_PX) for m in (masks if lesions is None else lesions)]
    size = judge.config.window_px
    chances = judge.predict_in(images, windows)
    fields = [w.crop_mask(field_of_view(i), size) for i, w in zip(images, windows, strict=True)]
    return [iou((c > 0.5) & f, w.crop_mask(m, size) & f) for c, f, w, m in zip(chances, fields, windows, masks, strict=True)]


def training_window(chosen: Prepared, config: Any, rng: np.random.Generator) -> Window:
    """A random training window: loosely around a lesion, or anywhere."""
    height, width = chosen.field.shape
    if chosen.boxes and rng.random() >= config.empty_share:
        x0, y0, x1, y1 = chosen.boxes[rng.integers(len(chosen.boxes))]
        side = max(x1 - x0, y1 - y0) * float(np.exp(rng.uniform(*np.log(config.window_scale))))
        return random_window((x0 + x1) / 2, (y0 + y1) / 2, max(side, 48), 0.22, rng)
    side = min(height, width) * float(np.exp(rng.uniform(np.log(0.2), np.log(1.1))))
    return random_window(rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height, side, 0.0, rng)


def draw_window(chosen: Prepared, config: Any, rng: np.random.Generator) -> tuple[Image, Mask, Mask]:
    """(image, mask, field) of a random training window, strongly recoloured."""
    image, mask, field = chosen.look(training_window(chosen, config, rng), config.window_px)
    return recolour(image, rng), mask, field


def overlap_losses(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Of predicted and true masks (B, 1, S, S) bool: 1 - IoU over windows with a lesion (0 without any), and the share found
    where there is none."""
    holds = truth.flatten(1).any(1)
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    iou = (both / either.clamp_min(1))[holds].mean() if holds.any() else torch.ones(())
    false_alarm = found[~holds].float().mean() if (~holds).any() else torch.zeros(())
    return {"1 - IoU": 1 - float(iou), "false alarm": float(false_alarm)}
