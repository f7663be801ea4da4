"""Cases that lie on disk, whatever their layout: the common ground of readers, importers and the data-set folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from polypforge.core.errors import UserError
from polypforge.core.files import content_of
from polypforge.core.images import read_image
from polypforge.core.seeding import content_hash
from polypforge.core.types import NORMAL, POLYP, Box, Case, Mask
from polypforge.masks.shapes import component_boxes

ANY_CLASS = "lesion"  # what readers call a mask whose class isn't known

MaskReader = Callable[[], dict[str, Mask]]  # one mask for each class; the union is the case's mask


@dataclass
class SourceCase:
    """Where a case's pixels are and what is known of it before they are read."""

    name: str
    image_path: Path
    read_masks: MaskReader | None = None
    mask_paths: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()  # of read_masks; none where a mask's class isn't known
    boxes: tuple[Box, ...] = ()
    box_classes: tuple[str, ...] = ()  # of each box, where there are no masks
    label: str = ""
    group: str = ""
    split: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    fault: str = ""  # of its annotation, found when that was read: why the case can't be used
    lesion: bool | None = None  # whether it shows one; None before anybody looked

    def load(self) -> Case:
        """Read the pixels. Raises UserError when a file is bad or image and mask differ in size."""
        if self.fault:
            raise UserError(self.fault)
        image = read_image(self.image_path)
        mask, classes = None, {}
        if self.read_masks is None:
            self._refuse_boxes_outside(*image.shape[:2])
        else:
            classes = self.read_masks()
            for part in classes.values():
                if part.shape != image.shape[:2]:
                    where = self.mask_paths[0] if self.mask_paths else self.image_path
                    sizes = f"{part.shape[1]}x{part.shape[0]} but its image {image.shape[1]}x{image.shape[0]}"
                    raise UserError(f"{where} is {sizes}: export them at one size.")
                mask = part if mask is None else mask | part
        boxes = component_boxes(mask, 4) if mask is not None else self.boxes
        label = self.label or (POLYP if (len(boxes) or (mask is not None and mask.any())) else NORMAL)
        kept = {name: part for name, part in classes.items() if name != ANY_CLASS}
        return Case(self.name, image, mask, boxes, label, self.group or self.name, self.split, kept, dict(self.provenance))

    def _refuse_boxes_outside(self, height: int, width: int) -> None:
        for box in self.boxes:
            if box[2] > width + 1 or box[3] > height + 1:  # some tools count corners from 1
                raise UserError(f"{self.image_path}: its box {box} leaves its {width}x{height} pixels: give those of this picture.")


def known_label(text: str) -> str:
    """A label as it was written, but for ways to write `normal`."""
    stripped = text.strip()
    return NORMAL if stripped.lower() == NORMAL else stripped


def shows_lesion(case: SourceCase) -> bool:
    """As the check found (`workflows.opened`); before that, as label, boxes and masks say."""
    if case.lesion is not None:
        return case.lesion
    if case.label:
        return case.label != NORMAL
    return bool(case.boxes) or (case.read_masks is not None and any(mask.any() for mask in case.read_masks().values()))


def parent_of(case: SourceCase) -> str:
    """Name of the real case whose frame was repainted, or whose mask was filled; "" where none was, or nobody knows."""
    request = case.provenance.get("request")
    return str(request.get("background", "")) if isinstance(request, dict) else ""


def donor_of(case: SourceCase | Case) -> str:
    """Name of the real case whose lesion was put into this one; "" where none was, or nobody knows."""
    return str(case.provenance.get("donor", ""))


def state_of(cases: Sequence[SourceCase]) -> str:
    """A hash of what is known of the cases and of their files' content: another hash, other cases."""
    rows = []
    for case in cases:
        files = [_content(path) for path in (case.image_path, *case.mask_paths)]
        known = [case.name, case.label, case.group, [list(b) for b in case.boxes], case.provenance]
        rows.append([*known, files])
    return content_hash(rows)


def _content(path: Path) -> str:
    try:
        return content_of(path) if path.is_file() else ""
    except OSError:
        return "unreadable"  # the check says so, and may leave it out


@dataclass
class Source:
    """A named list of cases on disk. `unpaired` are files without their partner; they are no part of `cases`."""

    path: Path
    layout: str
    cases: list[SourceCase]
    unpaired: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return (case.load() for case in self.cases)

    @property
    def lacking(self) -> list[str]:
        """What to do about each unpaired file."""
        mend = "add its mask (or image), or remove it; frames without lesion go into a folder named normal/"
        return [f"{path} has no partner: {mend}." for path in self.unpaired]

    @property
    def class_names(self) -> list[str]:
        """Of all cases, sorted; none where masks and boxes don't say what they show."""
        return sorted({name for case in self.cases for name in (*case.class_names, *case.box_classes)} - {ANY_CLASS})

    def of_class(self, name: str) -> Source:
        """The same frames, where only `name` counts as a lesion. Raises UserError for a class that isn't told apart; a case
        whose lesions have no class can't be loaded."""
        if name not in self.class_names:
            raise UserError(f"{self.path} has no class '{name}': it has {', '.join(self.class_names) or 'none that are told apart'}.")
        return replace(self, cases=[_of_class(case, name) for case in self.cases])


def _of_class(case: SourceCase, name: str) -> SourceCase:
    unsaid = f"{case.image_path}: its lesions' class isn't said, so whether they are '{name}' is unknown: say it, or leave the case out."

    bare = replace(case, class_names=(), boxes=(), box_classes=(), label="")
    if case.box_classes and ANY_CLASS not in case.box_classes:
        return replace(bare, boxes=tuple(box for box, kind in zip(case.boxes, case.box_classes, strict=True) if kind == name))
    if case.read_masks is None:
        return replace(bare, fault=case.fault or (unsaid if case.boxes or case.label not in ("", NORMAL) else ""))
    read = case.read_masks

    def masks() -> dict[str, Mask]:
        known = read()
        if ANY_CLASS in known and known[ANY_CLASS].any():
            raise UserError(unsaid)
        other = next(iter(known.values()))
        return {ANY_CLASS: known.get(name, np.zeros_like(other))}

    return replace(bare, read_masks=masks)
