"""Detectors that learn from whole frames: CenterNet, RT-DETR (the DINO family), FCOS and YOLO behind one interface."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from polypforge.core.errors import UserError
from polypforge.core.types import Box, Case, Image, Mask
from polypforge.evaluation.augment import augmented
from polypforge.evaluation.mixture import Mixture
from polypforge.masks.shapes import box_mask, component_boxes, components
from polypforge.models.centernet import START, centre_loss, centre_peaks, centre_targets
from polypforge.models.encoder_weights import named_weights
from polypforge.models.locate import locate
from polypforge.models.pixels import to_unit
from polypforge.models.saved_net import SavedNet
from polypforge.models.trainable import Batch, Trainable

KINDS = ("centernet", "rt_detr", "fcos", "yolo")
YOLO = re.compile(r"yolo(v8|11|12|26)[nsmlx]")
MOST_LESIONS = 8  # of one frame that are taught
MOST_FOUND = 20
LEAST_PX = 4  # sides of a box that is taught, at the network's size
PREDICTED_AT_ONCE = 8

Found = list[tuple[tuple[float, float, float, float], float]]  # boxes in pixels with confidence, surest first


@dataclass(frozen=True)
class LesionDetectorConfig:
    """kind: centernet, rt_detr, fcos or yolo. size_px: side of the frames that it sees (resized, not cut). encoder, depth, decoder: of the
    U-Net behind centernet, as for the segmenter. width: of rt_detr and its ResNet when it starts from nothing. weights: of centernet's
    encoder, a name such as imagenet, which is downloaded; of rt_detr a folder or hub id of transformers; "" for none. yolo: which one of
    ultralytics, such as yolov8n."""

    kind: str = "centernet"
    size_px: int = 256
    encoder: str = "resnet18"
    depth: int = 4
    decoder: tuple[int, ...] = (128, 64, 32, 16)
    weights: str = ""
    width: int = 128
    yolo: str = "yolov8n"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}")
        if self.size_px % 32:
            raise ValueError("size_px must be a multiple of 32")
        if self.kind == "centernet" and len(self.decoder) != self.depth:
            raise ValueError("decoder needs `depth` widths")
        if self.kind in ("fcos", "yolo") and self.weights:
            raise ValueError(f"{self.kind} starts from nothing: leave weights empty")
        if not YOLO.fullmatch(self.yolo):
            raise ValueError("yolo is a version and a size, such as yolov8n, yolo11s or yolo26m")
        if self.kind == "yolo" and find_spec("ultralytics") is None:
            raise ValueError("detector yolo needs ultralytics (licence AGPL-3.0): pip install 'polypforge[yolo]'")


class Head(nn.Module, ABC):
    """One kind of detector. Images are (B, 3, S, S) in [-1, 1]; boxes of each image (n, 4) in pixels."""

    @abstractmethod
    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        """Named parts of the loss; their sum is minimised."""

    @abstractmethod
    def find(self, images: Tensor) -> list[Found]:
        """At most MOST_FOUND boxes of each image."""


class CenterNet(Head):
    def __init__(self, config: LesionDetectorConfig) -> None:
        super().__init__()
        self.net = smp.Unet(
            config.encoder, config.depth, named_weights(config.encoder, config.weights), decoder_channels=config.decoder, classes=3
        )
        with torch.no_grad():
            head: Any = self.net.segmentation_head[0]  # type: ignore[index]
            head.bias.copy_(torch.tensor(START))

    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        size = images.shape[-1]
        targets = [centre_targets([_whole(box) for box in part.tolist()], size) for part in boxes]
        heat, sides, centre = (torch.from_numpy(np.stack(part)).to(images.device) for part in zip(*targets, strict=True))
        focal, extent = centre_loss(self.net(images).float(), heat[:, None], sides, centre[:, None])
        return {"focal": focal, "sides": 2 * extent}

    def find(self, images: Tensor) -> list[Found]:
        return centre_peaks(self.net(images).float(), MOST_FOUND)


class RTDetr(Head):
    """RT-DETRv2 of transformers, with its own matching losses."""

    def __init__(self, config: LesionDetectorConfig) -> None:
        super().__init__()
        from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

        if config.weights:
            where = locate(config.weights)
            self.net = RTDetrV2ForObjectDetection.from_pretrained(
                where, num_labels=1, ignore_mismatched_sizes=True, local_files_only=True, use_safetensors=True
            )
            return
        width = config.width
        sizes = [width // 2, width, 2 * width, 4 * width]
        stages: dict[str, Any] = {"hidden_sizes": sizes, "depths": [2, 2, 2, 2], "out_features": ["stage2", "stage3", "stage4"]}
        backbone = RTDetrResNetConfig(embedding_size=max(16, width // 2), layer_type="basic", **stages)
        shape: dict[str, Any] = {
            "encoder_in_channels": sizes[1:], "encoder_hidden_dim": width, "d_model": width, "decoder_in_channels": [width] * 3,
            "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width, "decoder_layers": 3, "decoder_attention_heads": 4,
            "encoder_attention_heads": 4, "num_queries": 50, "num_denoising": 20, "num_labels": 1,
        }  # fmt: skip
        self.net = RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=backbone, **shape))

    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        size = images.shape[-1]
        labels = [{"class_labels": torch.zeros(len(b), dtype=torch.long, device=b.device), "boxes": _centred(b) / size} for b in boxes]
        return {"matching": self.net(pixel_values=(images + 1) / 2, labels=labels).loss}

    def find(self, images: Tensor) -> list[Found]:
        size, results = images.shape[-1], []
        out = self.net(pixel_values=(images + 1) / 2)
        sure = out.logits.sigmoid()[..., 0]
        for chance, boxes in zip(sure, out.pred_boxes, strict=True):
            values, order = chance.topk(min(MOST_FOUND, len(chance)))
            x, y, w, h = (boxes[order] * size).unbind(-1)
            corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
            results.append([(tuple(c), v) for c, v in zip(corners.tolist(), values.tolist(), strict=True)])
        return results


class FCOS(Head):
    """Of torchvision, on a ResNet-50 with a feature pyramid."""

    def __init__(self, config: LesionDetectorConfig) -> None:
        super().__init__()
        from torchvision.models.detection import fcos_resnet50_fpn

        self.net = fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2, min_size=config.size_px, max_size=config.size_px,
            detections_per_img=MOST_FOUND, score_thresh=0.01,
        )  # fmt: skip

    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        targets = [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.long, device=b.device)} for b in boxes]
        training = self.net.training
        self.net.train()  # torchvision gives losses in no other mode
        found = self.net(list((images + 1) / 2), targets)
        self.net.train(training)
        return found

    def find(self, images: Tensor) -> list[Found]:
        found = self.net(list((images + 1) / 2))
        return [[(tuple(b), s) for b, s in zip(f["boxes"].tolist(), f["scores"].tolist(), strict=True)] for f in found]


@contextmanager
def _offline_and_unpatched() -> Iterator[None]:
    """What ultralytics replaces in other libraries when it is first imported is put back: its Image.open, for one, fails on bad files
    in a way of its own, and OpenCV would be left with one thread."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    patched = [(PIL.Image, "open"), (torch, "save"), (cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow")]
    before = [(module, name, getattr(module, name)) for module, name in patched if hasattr(module, name)]
    threads = cv2.getNumThreads()
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        cv2.setNumThreads(threads)


class Yolo(Head):
    """Of ultralytics, from nothing, with its own losses. That package is AGPL-3.0 and an extra of its own; it is kept off the network."""

    def __init__(self, config: LesionDetectorConfig) -> None:
        super().__init__()
        with _offline_and_unpatched():
            from ultralytics.cfg import get_cfg
            from ultralytics.nn.tasks import DetectionModel

        self.net = DetectionModel(f"{config.yolo}.yaml", nc=1, verbose=False)
        self.net.args = get_cfg()

    def losses(self, images: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        rows = torch.cat([torch.full((len(b),), k, device=images.device) for k, b in enumerate(boxes)])
        batch = {
            "img": (images + 1) / 2, "batch_idx": rows.float(), "cls": torch.zeros(len(rows), 1, device=images.device),
            "bboxes": _centred(torch.cat(boxes)) / images.shape[-1],
        }  # fmt: skip
        training = self.net.training
        self.net.train()  # ultralytics gives what its losses need in no other mode
        parts, _ = self.net.loss(batch)
        self.net.train(training)
        return {"detection": parts.sum() / len(images)}

    def find(self, images: Tensor) -> list[Found]:
        from ultralytics.utils.nms import non_max_suppression

        raw = self.net((images + 1) / 2)
        rows = non_max_suppression(raw, conf_thres=0.01, iou_thres=0.5, max_det=MOST_FOUND, end2end=self.net.end2end)
        return [[(tuple(r[:4]), r[4]) for r in found.tolist()] for found in rows]


HEADS: dict[str, type] = {"centernet": CenterNet, "rt_detr": RTDetr, "fcos": FCOS, "yolo": Yolo}


def _whole(box: Sequence[float]) -> Box:
    return int(box[0]), int(box[1]), int(box[2]), int(box[3])


def _centred(boxes: Tensor) -> Tensor:
    """Corners -> centre, width, height."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


@dataclass(frozen=True)
class Frame:
    """A case at the network's size. image: (S, S, 3) uint8; lesions: a mask (S, S) of each."""

    name: str
    image: Image
    lesions: tuple[Mask, ...]


class LesionDetector(SavedNet, Trainable):
    """Boxes with confidence from RGB frames in [-1, 1]."""

    name: ClassVar[str] = "lesion_detector"
    config_class = LesionDetectorConfig
    uses_all_parameters = False

    def __init__(self, config: LesionDetectorConfig) -> None:
        super().__init__()
        self.config = config if config.kind == "rt_detr" else replace(config, weights="")  # what is saved starts from nothing else
        try:
            self.net: Any = HEADS[config.kind](config)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"detector {config.kind} with weights '{config.weights}': {str(error).splitlines()[0]}.") from error

    def frame(self, case: Case) -> Frame:
        size = (self.config.size_px, self.config.size_px)
        masks = components(case.mask, 30) if case.mask is not None else [box_mask(b, case.size) for b in case.boxes]
        small = [cv2.resize(m.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128 for m in masks[:MOST_LESIONS]]
        return Frame(case.name, cv2.resize(case.image, size, interpolation=cv2.INTER_AREA), tuple(small))

    def prepare(self, cases: Sequence[Case]) -> Mixture[Frame]:
        return Mixture.of_real((self.frame(case) for case in cases), lambda frame: bool(frame.lesions))

    def training_batch(self, pool: Sequence, batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; boxes (B, MOST_LESIONS, 4) in pixels; count (B,): how many of them are boxes."""
        assert isinstance(pool, Mixture)
        drawn = [pool.draw(rng) for _ in range(batch_size)]
        return _batch([augmented(f.image, f.lesions, pool.augment, rng) for f in drawn])

    def validation_batch(self, pool: Sequence, count: int, rng: np.random.Generator) -> Batch:
        assert isinstance(pool, Mixture)
        return _batch([(f.image, list(f.lesions)) for f in pool.real[:count]])

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = self.config.size_px
        return {"image": (count, 3, size, size), "boxes": (count, MOST_LESIONS, 4), "count": (count,)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        boxes = [b[: int(n)] for b, n in zip(batch["boxes"], batch["count"], strict=True)]
        parts = self.net.losses(batch["image"], boxes)
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        """1 - AP50."""
        from polypforge.evaluation.detection.average_precision import average_precision, score_boxes

        found = self._find(batch["image"])
        rows = []
        for boxes, truth, count in zip(found, batch["boxes"].tolist(), batch["count"].tolist(), strict=True):
            rows.append(score_boxes("", "", boxes, [tuple(b) for b in truth[: int(count)]]))
        return {"1 - AP50": 1 - average_precision(rows, 0)}

    def _find(self, images: Tensor) -> list[Found]:
        return [f for part in images.split(PREDICTED_AT_ONCE) for f in self.net.find(part)]

    @torch.inference_mode()
    def predict(self, images: Sequence[Image]) -> list[Found]:
        """Frames of any sizes -> boxes in their own pixels, surest first."""
        self.eval()
        size = self.config.size_px
        small = np.stack([cv2.resize(i, (size, size), interpolation=cv2.INTER_AREA) for i in images])
        found = self._find(to_unit(small).to(next(self.parameters()).device))
        scaled = []
        for image, boxes in zip(images, found, strict=True):
            x, y = image.shape[1] / size, image.shape[0] / size
            scaled.append([((b[0] * x, b[1] * y, b[2] * x, b[3] * y), sure) for b, sure in boxes])
        return scaled


def _batch(examples: Sequence[tuple[Image, list[Mask]]]) -> Batch:
    boxes, counts = np.zeros((len(examples), MOST_LESIONS, 4), np.float32), np.zeros(len(examples), np.int64)
    for k, (_, masks) in enumerate(examples):
        # all parts of each: augmentation mirrors what enters from outside, and a lesion's reflection is one to a detector
        kept: list[Box] = [b for m in masks for b in component_boxes(m, LEAST_PX) if min(b[2] - b[0], b[3] - b[1]) >= LEAST_PX]
        counts[k] = min(len(kept), MOST_LESIONS)
        for j, box in enumerate(kept[:MOST_LESIONS]):
            boxes[k, j] = box
    images = to_unit(np.stack([image for image, _ in examples]))
    return {"image": images, "boxes": torch.from_numpy(boxes), "count": torch.from_numpy(counts)}
