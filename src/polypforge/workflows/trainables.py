"""What `polypforge train` knows by name: recipes, judges, and the other networks; and shipped configurations."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.evaluation.segmentation.network import LesionSegmenter
from polypforge.features.frame_encoder import FrameEncoder
from polypforge.models.first_stage import FirstStage
from polypforge.models.overlay_finder import OverlayFinder
from polypforge.models.trainable import Trainable
from polypforge.quality.detector import Detector
from polypforge.quality.judges import JUDGES, judge_class
from polypforge.recipes import RECIPES, recipe_class

OTHERS: tuple[type[Trainable], ...] = (FirstStage, FrameEncoder, Detector, OverlayFinder, LesionSegmenter)


def trainable_names() -> list[str]:
    return [*RECIPES, *JUDGES, *(cls.name for cls in OTHERS)]


def trainable_class(name: str) -> Any:
    """The class by its name. Raises UserError for another name."""
    if name not in trainable_names():
        raise UserError(f"'{name}' can't be trained: choose one of {', '.join(trainable_names())}.")
    if name in JUDGES:
        return judge_class(name)
    return next((cls for cls in OTHERS if cls.name == name), None) or recipe_class(name)


def build(name: str, model: dict[str, Any], where: str) -> Trainable:
    """An untrained model from the `model` section of a configuration."""
    cls = trainable_class(name)
    return cls(from_dict(cls.config_class, model, where))


def shipped_config(name: str, size: str = "starter") -> Path:
    return Path(str(files("polypforge") / "configs" / name / f"{size}.yaml"))
