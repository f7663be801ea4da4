"""Why a case was kept or rejected, as a picture: what was asked, what was drawn, what the judge sees, and every score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image, Mask
from polypforge.core.window import Window
from polypforge.reporting.panels import LABEL_COLOUR, REGION_COLOUR, outlined

SIDE, LINE, TEXT_WIDTH = 240, 19, 420
JUDGE_COLOUR = (255, 90, 220)
PASSED, FAILED, SKIPPED = (60, 130, 70), (200, 50, 40), (140, 140, 140)


@dataclass(frozen=True)
class ScoreLine:
    """One gate: its score and threshold (None: not measured, not applied), which side passes, and whether it passed."""

    name: str
    score: float | None
    threshold: float | None
    keep: str
    passed: bool


def gate_figure(
    title: str,
    source: Image | None,
    result: Image,
    region: Mask,
    label: Mask,
    window: Window,
    chance: NDArray[np.float32] | None,
    lines: Sequence[ScoreLine],
) -> Image:
    """Source with the edit's border (yellow), result, result with label (green) and judge (pink), the judge's probability; beside
    them the scores."""
    after, where, what = window.crop(result, SIDE), window.crop_mask(region, SIDE), window.crop_mask(label, SIDE)
    before = window.crop(source, SIDE) if source is not None and source.shape == result.shape else np.full_like(after, 235)
    both = outlined(after, what, LABEL_COLOUR)
    heat = np.full_like(after, 235)
    if chance is not None:
        seen = window.crop_mask(chance > 0.5, SIDE)
        both = outlined(both, seen, JUDGE_COLOUR)
        grey = window.crop(np.repeat((chance.clip(0, 1) * 255).astype(np.uint8)[..., None], 3, 2), SIDE)
        heat = cv2.cvtColor(cv2.applyColorMap(grey[..., 0], cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    tiles = [("before", outlined(before, where, REGION_COLOUR)), ("after", after), ("label green, judge pink", both), ("judge", heat)]
    gap = np.full((SIDE + LINE, 4, 3), 255, np.uint8)
    pictures = np.hstack([x for name, tile in tiles for x in (np.vstack([_text_line(name, SIDE), tile]), gap)])
    rows = [_text_line(title, TEXT_WIDTH)] + [_score_line(line) for line in lines]
    column = np.vstack(rows)
    height = max(len(column), len(pictures))
    return np.hstack([_padded(pictures, height), _padded(column, height)])


def _score_line(line: ScoreLine) -> Image:
    if line.score is None or line.threshold is None:
        why = "not measured" if line.score is None else f"{line.score:.3f}, no threshold"
        return _text_line(f"{line.name}: {why}", TEXT_WIDTH, SKIPPED)
    text = f"{line.name}: {line.score:.3f} ({line.keep} {line.threshold:.3f})"
    return _text_line(text if line.passed else text + "  FAILED", TEXT_WIDTH, PASSED if line.passed else FAILED)


def _text_line(text: str, width: int, colour: tuple[int, int, int] = (40, 40, 40)) -> Image:
    canvas = np.full((LINE, width, 3), 255, np.uint8)
    cv2.putText(canvas, text, (4, LINE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return canvas


def _padded(picture: Image, height: int) -> Image:
    return np.vstack([picture, np.full((height - len(picture), picture.shape[1], 3), 255, np.uint8)])
