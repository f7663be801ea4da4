"""Image and mask folders: Kvasir-SEG, HyperKvasir, CVC-ClinicDB, ETIS, PolypGen, and most home-made sets."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial
from pathlib import Path

from polypforge.core.errors import UserError
from polypforge.core.files import visible
from polypforge.core.images import image_files, read_mask
from polypforge.core.types import NORMAL, Mask
from polypforge.data.source import ANY_CLASS, Source, SourceCase

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "original", "originals", "frames", "etis-laribpolypdb", "train"}
MASK_FOLDERS = {
    "masks",
    "mask",
    "ground truth",
    "ground_truth",
    "groundtruth",
    "gt",
    "segmentation",
    "segmentations",
    "train_gt",
    "annotations",
}
NORMAL_FOLDERS = {"normal", "normals", "negative", "negatives"}
_AFFIX = re.compile(r"(^(mask|gt)[ _-]+)|([ _-]+(mask|gt|seg|segmentation|groundtruth|ground_truth)$)", re.IGNORECASE)


def _plain(folder: Path) -> str:
    """`images_C1` -> `images`: PolypGen appends the centre."""
    return re.sub(r"[_-]c\d+$", "", folder.name.lower())


def partner_key(path: Path) -> str:
    """The part of a file's name that image and mask share: `a_mask.jpg` -> `a`, ETIS's `p12.tif` -> `12`."""
    stem = _AFFIX.sub("", path.stem)
    return re.sub(r"^p(\d+)$", r"\1", stem)


def find_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """(image folders, mask folders) at or below `root`, by name."""
    folders = [root, *(p for p in visible(root, "*") if p.is_dir())]
    masks = [f for f in folders if _plain(f) in MASK_FOLDERS]
    images = [f for f in folders if _plain(f) in IMAGE_FOLDERS and not {f, *f.parents} & (set(masks) - {root})]
    inside = {f for f in images if f.name.lower() == "train" and any(p in images and p.name.lower() != "train" for p in f.parents)}
    images = [f for f in images if f not in inside]  # images/train: a split, not a folder of its own
    return _innermost(images), _innermost(masks)


def _innermost(folders: list[Path]) -> list[Path]:
    """Folders with images at or below them and no other of `folders` below: some sets nest `train/train`."""
    return [f for f in folders if image_files(f) and not any(f in other.parents for other in folders)]


def pair_files(root: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """([(image, mask)], files without partner). Raises UserError when two files claim one partner."""
    image_dirs, mask_dirs = find_folders(root)
    masks: dict[tuple[str, Path, str], list[Path]] = defaultdict(list)
    for folder in mask_dirs:
        for path in image_files(folder):
            masks[_set_of(folder, root), path.parent.relative_to(folder), partner_key(path)].append(path)
    pairs, alone, used = [], [], set()
    for folder in image_dirs:
        for path in image_files(folder):
            found = masks.get((_set_of(folder, root), path.parent.relative_to(folder), partner_key(path)), [])
            if len(found) > 1:
                raise UserError(f"{path} has {len(found)} masks ({found[0].name}, {found[1].name}): leave one of them.")
            if not found:
                alone.append(path)
            elif found[0] in used:
                raise UserError(f"{found[0]} is the mask of two images, one of them {path}: give each image its own.")
            else:
                used.add(found[0])
                pairs.append((path, found[0]))
    alone += [m for group in masks.values() for m in group if m not in used]
    return pairs, alone


def _set_of(folder: Path, root: Path) -> str:
    """Which part of a set a folder belongs to (PolypGen: data_C1, data_C2 ...), so that equal names there don't collide."""
    parts = [p.lower() for p in folder.relative_to(root).parts]
    kept = [p for p in parts if re.sub(r"[_-]c\d+$", "", p) not in IMAGE_FOLDERS | MASK_FOLDERS]
    return "/".join(kept)


def unique_names(paths: list[Path], root: Path) -> dict[Path, str]:
    """A case name for each image: its stem, with the sub-folder in front where stems collide."""
    count: dict[str, int] = defaultdict(int)
    for path in paths:
        count[path.stem] += 1
    return {p: p.stem if count[p.stem] == 1 else "_".join([*p.relative_to(root).parent.parts, p.stem]).replace(" ", "-") for p in paths}


def _lesion(path: Path) -> dict[str, Mask]:
    return {ANY_CLASS: read_mask(path)}


def read_pairs(root: Path) -> Source:
    """Every image that has a mask, and those in folders named `normal` or `negative`, which need none; others are `unpaired`."""
    pairs, alone = pair_files(root)
    normal = _normal_files(root, {path for pair in pairs for path in pair})
    names = unique_names([*(image for image, _ in pairs), *normal], root)
    cases = [SourceCase(names[image], image, partial(_lesion, mask), (mask,)) for image, mask in pairs]
    cases += [SourceCase(names[path], path, label=NORMAL) for path in normal]
    return Source(root, "pairs", cases, [path for path in alone if path not in normal])


def _normal_files(root: Path, paired: set[Path]) -> list[Path]:
    """Frames without a mask in folders that are named for frames without lesion."""
    folders = [f for f in visible(root, "*") if f.is_dir() and _plain(f) in NORMAL_FOLDERS]
    return sorted({path for folder in folders for path in image_files(folder) if path not in paired and is_frame(root, path)})


def is_frame(root: Path, path: Path) -> bool:
    """Whether a picture below `root` is no mask, by the folders that it lies in."""
    return not any(_plain(folder) in MASK_FOLDERS for folder in path.relative_to(root).parents if folder.name)


def read_normal(root: Path) -> Source:
    """A folder of frames without lesions."""
    files = image_files(root)
    names = unique_names(files, root)
    return Source(root, "normal", [SourceCase(names[f], f, label=NORMAL) for f in files])
