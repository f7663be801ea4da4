"""Reading and writing pixels: the one place for formats, ranges, dtypes and size limits."""

from __future__ import annotations

import io
import struct
import warnings
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageFile, PngImagePlugin, UnidentifiedImageError

from polypforge.core.errors import UserError
from polypforge.core.files import visible, whole_file
from polypforge.core.types import Image, Mask

MAX_SIDE_PX = 8192
MIN_SIDE_PX = 64
LESION_LEVEL = 128  # a mask pixel at or above it is lesion (METHODS.md, section 9)
FAST_PNG = 1  # of zlib's levels: half the time of 4 for files 8 % larger
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # what Pillow may take a file for: others run programs (EPS), or are none of ours
_ORIENTATION = 0x0112  # EXIF tag
ImageFile.LOAD_TRUNCATED_IMAGES = False
PIL.MAX_IMAGE_PIXELS = MAX_SIDE_PX**2


def _open(path: Path) -> PIL.Image:
    """The decoded picture, or UserError: not an image, truncated, too large or too small."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = PIL.open(path, formats=FORMATS)
            if max(picture.size) > MAX_SIDE_PX:
                raise UserError(f"{path} is {picture.width}x{picture.height} pixels: scale it down to {MAX_SIDE_PX} a side or less.")
            if min(picture.size) < MIN_SIDE_PX:
                raise UserError(f"{path} is {picture.width}x{picture.height} pixels: at least {MIN_SIDE_PX} a side are needed.")
            deep = ";16" in str(getattr(picture, "tile", ""))  # Pillow opens 16-bit RGB as 8-bit RGB
            picture.load()
            picture.getexif()  # kept with the picture; damaged, it raises here
            if deep and picture.mode in ("RGB", "RGBA", "LA"):
                raise UserError(f"{path} has more than 8 bits a channel: convert it to 8-bit RGB.")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that can be read: remove it or replace it by a PNG, JPEG or TIFF.") from None
    except PIL.DecompressionBombError:
        raise UserError(f"{path} is too large: scale it down to {MAX_SIDE_PX} pixels a side or less.") from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error) as error:  # as Pillow does
        raise UserError(f"{path} is truncated or damaged ({error}): restore it from its source.") from error
    return picture


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB.

    Grey and palette pictures without transparency become RGB, which changes no pixel's look. Raises UserError for what
    would need a decision: more than 8 bits, CMYK, a used alpha channel, an EXIF rotation.
    """
    picture = _open(path)
    _refuse_ambiguous(path, picture)
    return np.asarray(picture.convert("RGB"))


def _refuse_ambiguous(path: Path, picture: PIL.Image) -> None:
    """Raises UserError for pictures that can't be read in one way only."""
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        raise UserError(
            f"{path} carries an EXIF rotation, which its mask may not follow: rotate the pixels (exiftran -a) and save it again."
        )
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        raise UserError(f"{path} has more than 8 bits a channel ({picture.mode}): convert it to 8-bit RGB.")
    if picture.mode == "CMYK":
        raise UserError(f"{path} is CMYK: convert it to RGB with its colour profile.")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        if np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(f"{path} has transparent pixels: flatten it to RGB.")


def read_grey(path: Path) -> np.ndarray:
    """(H, W) uint8 of a mask file as stored; a palette mask gives its palette's grey. Raises UserError."""
    picture = _open(path)
    _refuse_ambiguous(path, picture)
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8) * 255
    if picture.mode != "L":
        rgb = np.asarray(picture.convert("RGB"))
        if (brightest_channel(rgb) - darkest_channel(rgb)).max() > 60:
            raise UserError(f"{path} is a mask in colours: save it in black and white, or read it with --layout neopolyp.")
    return np.asarray(picture.convert("L"))


def read_mask(path: Path) -> Mask:
    """(H, W) bool: value >= 128. A mask with dark values only (such as {0, 1}) is refused: >= 128 would empty it.

    The faint noise of an all-black JPEG is no value.
    """
    grey = read_grey(path)
    noise = 8 if path.suffix.lower() in (".jpg", ".jpeg") else 0
    if noise < grey.max() < LESION_LEVEL:
        raise UserError(f"{path} is a mask with values 0..{grey.max()}: save it with 0 and 255.")
    return grey >= LESION_LEVEL


def shrunk_size(shape: tuple[int, ...], longest_px: int) -> tuple[float, tuple[int, int]]:
    """(scale, (width, height)) at which the longer side of an array of `shape` has at most `longest_px`; never enlarged."""
    scale = min(1.0, longest_px / max(shape[:2]))
    return scale, (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))


def brightest_channel(image: Image) -> NDArray[np.uint8]:
    """(H, W): the largest of each pixel's three values. By OpenCV: NumPy takes many times as long along an axis of three."""
    return reduce(cv2.max, cv2.split(image))


def darkest_channel(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W): the smallest of each pixel's three values. OpenCV is many times faster at it than numpy."""
    return reduce(cv2.min, cv2.split(image))


def png_bytes(pixels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """PNG of (H, W, 3) uint8, or of (H, W) bool as {0, 255}; `text` becomes PNG text chunks."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    values = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    buffer = io.BytesIO()
    PIL.fromarray(values).save(buffer, "PNG", pnginfo=info, compress_level=FAST_PNG)
    return buffer.getvalue()


def write_png(path: Path, pixels: np.ndarray, text: dict[str, str] | None = None) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(png_bytes(pixels, text))


def image_files(folder: Path) -> list[Path]:
    """Files below `folder` with an image's suffix, sorted; hidden files are passed over."""
    return [p for p in visible(folder, "*") if p.suffix.lower() in SUFFIXES and not p.is_dir()]
