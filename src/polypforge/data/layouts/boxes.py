"""Box annotations without pixel masks: Kvasir JSON, LDPolypVideo text files, COCO, YOLO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.core.files import inside, read_json, visible
from polypforge.core.images import image_files, read_image
from polypforge.core.types import NORMAL, POLYP, Box
from polypforge.data.layouts.pairs import unique_names
from polypforge.data.source import ANY_CLASS, Source, SourceCase


def _box(values: list[float], where: str) -> Box:
    if len(values) != 4:
        raise UserError(f"{where}: a box needs four numbers, not {len(values)}.")
    if not all(isfinite(v) for v in values):
        raise UserError(f"{where}: {values} are not four numbers.")
    x0, y0, x1, y1 = (round(v) for v in values)
    if x1 <= x0 or y1 <= y0 or x0 < -1 or y0 < -1:
        raise UserError(f"{where}: ({x0}, {y0}, {x1}, {y1}) is no box; corners must be x0 < x1, y0 < y1.")
    return max(0, x0), max(0, y0), x1, y1


@dataclass
class Boxes:
    """Of each image; and what is wrong with an image's boxes, which is said of this case alone, when it is loaded."""

    found: dict[Path, list[Box]] = field(default_factory=dict)
    classes: dict[Path, list[str]] = field(default_factory=dict)
    faults: dict[Path, str] = field(default_factory=dict)
    groups: dict[Path, str] = field(default_factory=dict)

    def show(self, image: Path) -> None:
        self.found.setdefault(image, [])

    def add(self, image: Path, values: list[float], where: str, of_class: str = ANY_CLASS) -> None:
        self.show(image)
        try:
            self.found[image].append(_box(values, where))
            self.classes.setdefault(image, []).append(of_class)
        except UserError as error:
            self.fault(image, str(error))

    def fault(self, image: Path, why: str) -> None:
        self.faults.setdefault(image, why)

    def source(self, root: Path, layout: str) -> Source:
        names = unique_names(sorted(self.found), root)
        cases = [
            SourceCase(
                names[p], p, boxes=tuple(b), box_classes=tuple(self.classes.get(p, ())), label=POLYP if b or p in self.faults else NORMAL,
                group=self.groups.get(p, ""), fault=self.faults.get(p, ""),
            )
            for p, b in sorted(self.found.items())
        ]  # fmt: skip
        return Source(root, layout, cases)


def _by_stem(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in image_files(root):
        if "mask" in path.parent.name.lower():
            continue
        if path.stem in found:
            raise UserError(f"{found[path.stem]} and {path} have one name, so boxes can't be told apart: rename one of them.")
        found[path.stem] = path
    return found


@contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    """Turns a missing key or a wrong type in `path` into one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not laid out as its format asks: {type(error).__name__} {error}.") from error


def find_json(root: Path, wanted: Any) -> Path | None:
    """The first JSON file whose content satisfies `wanted`."""
    for path in visible(root, "*.json"):
        if wanted(read_json(path)):
            return path
    return None


def is_kvasir_json(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(v, dict) and "bbox" in v for v in content.values())


def is_coco_json(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "annotations"} <= set(content)


def read_kvasir_boxes(root: Path) -> Source:
    """`{id: {"bbox": [{"xmin", "ymin", "xmax", "ymax"}]}}` beside an image folder."""
    path = find_json(root, is_kvasir_json)
    if path is None:
        raise UserError(f"{root} holds no JSON file of Kvasir boxes.")
    files, boxes = _by_stem(root), Boxes()
    with _well_formed(path):
        for name, entry in read_json(path).items():
            if name not in files:
                raise UserError(f"{path}: there is no image for '{name}' below {root}.")
            boxes.show(files[name])
            for b in entry["bbox"]:
                boxes.add(files[name], [b["xmin"], b["ymin"], b["xmax"], b["ymax"]], f"{path}, {name}")
    return boxes.source(root, "kvasir boxes")


def read_coco(root: Path) -> Source:
    """COCO detection JSON; boxes are x, y, width, height. Images without annotation are normal frames."""
    path = find_json(root, is_coco_json)
    if path is None:
        raise UserError(f"{root} holds no COCO JSON file.")
    files: dict[str, list[Path]] = defaultdict(list)
    for file in image_files(root):
        files[file.name].append(file)
    boxes = Boxes()
    for path in (p for p in visible(root, "*.json") if is_coco_json(read_json(p))):  # train and val have one each
        with _well_formed(path):
            content = read_json(path)
            kinds = {row["id"]: str(row["name"]) for row in content.get("categories") or ()}
            images = {row["id"]: _coco_image(path, row["file_name"], root, files) for row in content["images"]}
            for image in images.values():
                boxes.show(image)
            for row in content["annotations"]:
                x, y, w, h = row["bbox"]
                kind = row.get("category_id")
                where = f"{path}, annotation {row.get('id')}"
                boxes.add(images[row["image_id"]], [x, y, x + w, y + h], where, ANY_CLASS if kind is None else kinds.get(kind, str(kind)))
    return boxes.source(root, "coco")


def _coco_image(path: Path, name: str, root: Path, files: dict[str, list[Path]]) -> Path:
    """The file that a COCO entry means: the path it gives, or the only image of that name."""
    exact = inside(root, name)
    if exact.is_file():
        return exact
    found = files.get(Path(name).name, [])
    if len(found) != 1:
        raise UserError(f"{path}: image '{name}' is {'not' if not found else 'more than once'} below {root}.")
    return found[0]


def read_yolo(root: Path) -> Source:
    """`labels/NAME.txt` with `class cx cy w h` in shares of the frame; an empty or missing file is a normal frame."""
    boxes = Boxes()
    labels = {_label_key(p, root, "labels"): p for p in visible(root, "*.txt") if "labels" in p.relative_to(root).parts}
    for path in image_files(root):
        boxes.show(path)
        try:
            height, width = read_image(path).shape[:2]
        except UserError:  # said of this case alone, when it is loaded
            continue
        label = labels.get(_label_key(path, root, "images"))
        for line, values in _numbers(label):
            if len(values) != 5:
                raise UserError(f"{label}, line {line}: a YOLO box needs five numbers, class cx cy w h.")
            kind, cx, cy, w, h = values
            if max(abs(v) for v in (cx, cy, w, h)) > 1:
                boxes.fault(path, f"{label}, line {line}: YOLO's numbers are shares of the frame from 0 to 1, not pixels.")
                continue
            corners = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
            boxes.add(path, corners, f"{label}, line {line}", f"{kind:g}")
    return boxes.source(root, "yolo")


def _label_key(path: Path, root: Path, kind: str) -> tuple[str, ...]:
    """The path below the root without suffix and without the folder `images` or `labels`: equal for an image and its label."""
    *folders, _ = path.relative_to(root).parts
    return (*(p for p in folders if p.lower() != kind), path.stem)


def read_ldpolyp(root: Path) -> Source:
    """LDPolypVideo: `Images/VIDEO/*.jpg` and `Annotations/VIDEO/*.txt` (a count, then x0 y0 x1 y1 a line); a video is a group."""
    of_notes = [p for p in visible(root, "*.txt") if "annotations" in (part.lower() for part in p.relative_to(root).parts)]
    notes = {_label_key(path, root, "annotations"): path for path in of_notes}
    boxes = Boxes()
    for path in image_files(root):
        key = _label_key(path, root, "images")
        note = notes.get(key)
        if note is None:
            raise UserError(f"{path} has no annotation file: LDPolypVideo has one for each frame.")
        rows = _numbers(note)
        if not rows or len(rows[0][1]) != 1 or int(rows[0][1][0]) != len(rows) - 1:
            raise UserError(f"{note}: the first line must be the number of boxes that follow.")
        boxes.show(path)
        for line, values in rows[1:]:
            boxes.add(path, values, f"{note}, line {line}")
        boxes.groups[path] = "-".join(["video", *key[:-1]])
    return boxes.source(root, "ldpolypvideo")


def _numbers(path: Path | None) -> list[tuple[int, list[float]]]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [(i, [float(v) for v in line.split()]) for i, line in enumerate(lines, 1) if line.strip()]
    except ValueError as error:
        raise UserError(f"{path} must hold numbers only: {error}.") from error
    for line, values in rows:
        if not all(map(isfinite, values)):
            raise UserError(f"{path}, line {line}, must hold numbers only.")
    return rows
