"""Which layout a folder has, and the lists beside it that say more of its cases."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from polypforge.core.errors import UserError
from polypforge.core.files import visible
from polypforge.core.images import image_files
from polypforge.core.types import NORMAL
from polypforge.data.folder import is_data_set, read_data_set
from polypforge.data.layouts import boxes, classes, pairs
from polypforge.data.source import Source, SourceCase, known_label

LAYOUTS: dict[str, Callable[[Path], Source]] = {
    "data set": read_data_set,
    "pairs": pairs.read_pairs,
    "kvasir-boxes": boxes.read_kvasir_boxes,
    "coco": boxes.read_coco,
    "yolo": boxes.read_yolo,
    "ldpolypvideo": boxes.read_ldpolyp,
    "refuge2": classes.read_refuge,
    "neopolyp": classes.read_neopolyp,
    "normal": pairs.read_normal,
}
SPLITS = ("train", "val", "test")
_SPLIT_FOLDER = re.compile(r"(train|training|val|valid|validation|dev|test|testing)([-_ ]?(set|data|dataset|\d{4}))?$")


def open_source(root: str | Path, layout: str = "auto") -> Source:
    """Open a folder of any known layout. `test.txt`-like lists, `cases.csv` and folders named `train`, `val`, `test` give splits.

    Raises UserError: no such folder, no images, no layout that fits, a list that names a missing case, two cases of one name.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder.")
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}': choose one of {', '.join(LAYOUTS)}.")
    source = LAYOUTS[layout if layout != "auto" else detect(root)](root)
    _refuse_unreadable_names(source)
    _refuse_equal_names(source)
    _split_by_folder(source)
    _read_split_lists(source)
    _read_cases_csv(source)
    for case in source.cases:
        if case.split not in ("", *SPLITS):
            raise UserError(f"{source.path}: case '{case.name}' has the split '{case.split}': use {', '.join(SPLITS)} or leave it empty.")
    return source


def _refuse_unreadable_names(source: Source) -> None:
    for path in (*(p for case in source.cases for p in (case.image_path, *case.mask_paths)), *source.unpaired):
        if "\n" in path.name or "\r" in path.name:
            raise UserError(f"the name of {str(path)!r} holds a line break, which no list can: rename it.")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            shown = str(path).encode(errors="surrogateescape").decode(errors="replace")
            raise UserError(f"the name of {shown} is not UTF-8 (from an old archive?): rename it, for example with convmv.") from None


def _refuse_equal_names(source: Source) -> None:
    seen: dict[str, Path] = {}
    for case in source.cases:
        if case.name in seen:
            raise UserError(f"{seen[case.name]} and {case.image_path} would both be case '{case.name}': rename one of them.")
        seen[case.name] = case.image_path


def _split_by_folder(source: Source) -> None:
    """`train/images/...`, `images/val/...`: where a set is laid out by split, that split holds."""
    if any(case.split for case in source.cases) or source.layout == "neopolyp":
        return
    found = {}
    for case in source.cases:
        told = [_SPLIT_FOLDER.match(p.lower()) for p in case.image_path.relative_to(source.path).parent.parts]
        words = [match[1] for match in told if match]
        found[case.name] = next((name for name in SPLITS if words and words[0].startswith(name)), "val" if words else "")
    if len(set(found.values())) > 1:
        for case in source.cases:
            case.split = found[case.name]


def detect(root: Path) -> str:
    """Name of the layout. Masks win over boxes. Frames alone are not taken for normal ones: that must be said."""
    if is_data_set(root):
        return "data set"
    if not image_files(root):
        raise UserError(f"{root} holds no images: put them into images/ and their masks into masks/, with equal names.")
    image_dirs, mask_dirs = pairs.find_folders(root)
    if image_dirs and mask_dirs:
        return "neopolyp" if any("train_gt" in str(d) for d in mask_dirs) else "pairs"
    if visible(root, "*.json"):
        if boxes.find_json(root, boxes.is_kvasir_json):
            return "kvasir-boxes"
        if boxes.find_json(root, boxes.is_coco_json):
            return "coco"
    names = {p.name.lower() for p in visible(root, "*") if p.is_dir()}
    if "labels" in names:
        return "yolo"
    if "annotations" in names:
        return "ldpolypvideo"
    raise UserError(f"{root} holds images but no masks or boxes: add a masks/ folder, or say --layout normal if no frame shows a lesion.")


def _read_split_lists(source: Source) -> None:
    """`train.txt`, `val.txt`, `test.txt`: one image name a line, with or without suffix. Unlisted cases are `train`, but not where that
    list stands alone."""
    listed = listed_splits(source.path, source)
    if listed is not None:
        unlisted = [c.name for c in source.cases if c.name not in listed and not c.split]
        if unlisted and set(listed.values()) == {"train"} and not any((source.path / f"{n}.txt").is_file() for n in ("val", "test")):
            raise UserError(
                f"{source.path / 'train.txt'} lists {len(listed)} cases, and nothing says what the {len(unlisted)} others are for "
                f"('{unlisted[0]}' ...): name them in val.txt or test.txt, or remove the list."
            )
        for case in source.cases:
            case.split = listed.get(case.name) or case.split or "train"


def listed_splits(folder: Path, source: Source) -> dict[str, str] | None:
    """Case name -> split, by the lists in `folder`; None without lists. Raises UserError for a name that fits no case, or several."""
    lists = {name: folder / f"{name}.txt" for name in SPLITS}
    lists = {name: path for name, path in lists.items() if path.is_file()}
    named: dict[str, list[str]] = defaultdict(list)
    for case in source.cases:
        for name in {case.name, case.image_path.name}:
            named[name].append(case.name)
    found = {}
    for split, path in lists.items():
        for line in _text(path).split("\n"):
            name = line.rstrip("\r") if line.rstrip("\r") in named else line.strip()
            if not name:
                continue
            meant = named.get(name, [])
            if not meant:
                raise UserError(f"{path} names '{name}', for which there is no case in {source.path}.")
            if len(meant) > 1:
                raise UserError(f"{path} names '{name}', which {len(meant)} cases have: write {meant[0]}, {meant[1]} ... instead.")
            found[meant[0]] = split
    return found if lists else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8.") from error


def _read_cases_csv(source: Source) -> None:
    """`cases.csv`: `name` and any of `role` or `split`, `patient` or `video` or `group`, `label`, `centre` or `site`. A frame whose
    label is `normal` needs no mask."""
    path = source.path / "cases.csv"
    if not path.is_file() or source.layout == "data set":
        return
    try:
        read = csv.DictReader(io.StringIO(_text(path), newline=""))
        table = [{k.strip().lower(): (v or "").strip() for k, v in row.items() if k is not None} for row in read]
    except csv.Error as error:
        raise UserError(f"{path} is no table of comma-separated values ({error}): export it again.") from error
    if table and "name" not in table[0]:
        raise UserError(f"{path} has no column 'name': its first line must name the columns, separated by commas.")
    rows = {row["name"]: row for row in table}
    for image in list(source.unpaired):  # a frame that is known to show nothing needs no mask
        if known_label((rows.get(image.stem) or {}).get("label") or "") == NORMAL and pairs.is_frame(source.path, image):
            source.cases.append(SourceCase(image.stem, image))
            source.unpaired.remove(image)
    _refuse_equal_names(source)
    for case in source.cases:
        row = rows.get(case.name)
        if row is None:
            raise UserError(f"{path} has no row for '{case.name}'.")
        case.split = row.get("split") or row.get("role") or case.split
        case.group = row.get("group") or row.get("patient") or row.get("video") or case.group
        case.label = known_label(row.get("label") or "") or case.label
        site = row.get("site") or row.get("centre")
        if site:
            case.provenance["site"] = site
