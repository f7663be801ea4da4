"""Masks for boxes by the SAM family (Kirillov et al. 2023; SAM 2: Ravi et al. 2024), as transformers has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image as PIL

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.types import Box, Image, Mask
from polypforge.masks.shapes import box_mask, enlarge

# By the config's model_type; the published SAM 2 weights say sam2_video and hold what single images need.
MODELS = {
    "sam": ("SamModel", "SamProcessor"),
    "sam_hq": ("SamHQModel", "SamHQProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "sam2_video": ("Sam2Model", "Sam2Processor"),
}
SLACK = 0.05  # a mask may reach so much of the box's longer side beyond it: boxes are drawn by hand


class BoxSegmenter:
    """A SAM-family model and its processor from a folder of `save_pretrained`. Raises UserError for another kind of model."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        kind = str(config.get("model_type", ""))
        if kind not in MODELS:
            raise UserError(f"{folder} holds no model of the SAM family ({', '.join(MODELS)}), but '{kind or 'nothing known'}'.")
        try:
            model, processor = (getattr(transformers, name) for name in MODELS[kind])
            self.model: Any = model.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval().to(device)
            self.processor: Any = processor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): fetch the whole repository again."
            ) from error
        self.device = device

    @torch.inference_mode()
    def masks(self, image: Image, boxes: Sequence[Box]) -> list[Mask]:
        """One mask (H, W) for each box, cut to the box and a little around it; empty where the model sees nothing there."""
        prompts = [[[float(v) for v in box] for box in boxes]]
        inputs = self.processor(images=PIL.fromarray(image), input_boxes=prompts, return_tensors="pt").to(self.device)
        found = self.model(**inputs, multimask_output=False)
        sizes = [inputs["original_sizes"].cpu()]
        if "reshaped_input_sizes" in inputs:  # the first SAM pads after resizing
            sizes.append(inputs["reshaped_input_sizes"].cpu())
        planes = self.processor.post_process_masks(found.pred_masks.cpu().float(), *sizes)[0]
        planes = np.asarray(planes).reshape(len(boxes), -1, *image.shape[:2])[:, 0].astype(bool)
        reach = [round(SLACK * max(b[2] - b[0], b[3] - b[1])) for b in boxes]
        return [p & box_mask(enlarge(b, r, p.shape), p.shape) for p, b, r in zip(planes, boxes, reach, strict=True)]
