"""Whether an image file holds more than pixels, which may name a patient: known parts are allowed, everything else counts."""

from __future__ import annotations

PNG_START = b"\x89PNG\r\n\x1a\n"
# sizes, pixels, palettes and colours; not words (tEXt, iTXt, zTXt), Exif (eXIf), dates (tIME) or private chunks
PNG_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"pHYs"}
JPEG_START = b"\xff\xd8"
JFIF_BYTES = 16  # without a thumbnail
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_TABLES = {*range(0xC0, 0xD0), JPEG_SCAN, 0xDB, 0xDD} - {0xC8}  # frames, code and quantisation tables, scans; 0xC8 is reserved


def carries_metadata(content: bytes) -> bool:
    """True when a PNG or JPEG file holds anything but what is needed to show its pixels, or bytes after its end; also for other formats."""
    if content.startswith(PNG_START):
        return not _plain_png(content)
    return not (content.startswith(JPEG_START) and _plain_jpeg(content))


def _plain_png(content: bytes) -> bool:
    at = len(PNG_START)
    while at + 12 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        at += 12 + size
        if kind not in PNG_CHUNKS:
            return False
        if kind == b"IEND":
            return size == 0 and at == len(content)
    return False


def _plain_jpeg(content: bytes) -> bool:
    at = len(JPEG_START)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == JPEG_END:
            break
        size = int.from_bytes(content[at + 2 : at + 4])
        body = content[at + 4 : at + 2 + size]
        if not (marker in JPEG_TABLES or _known_application(marker, size, body)):
            return False
        at += 2 + size
        if marker == JPEG_SCAN:
            at = _end_of_scan(content, at)
    return content[at:] == b"\xff\xd9"


def _known_application(marker: int, size: int, body: bytes) -> bool:
    """JFIF without a thumbnail, a colour profile, or Adobe's colour transform."""
    return (
        (marker == 0xE0 and body.startswith(b"JFIF\0") and size == JFIF_BYTES)
        or (marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"))
        or (marker == 0xEE and body.startswith(b"Adobe") and size == 14)
    )


def _end_of_scan(content: bytes, at: int) -> int:
    """Where the next marker is: in compressed pixels 0xFF is followed by 0 or by a restart marker."""
    while (at := content.find(b"\xff", at)) >= 0:
        following = content[at + 1] if at + 1 < len(content) else JPEG_END
        if following != 0 and not 0xD0 <= following <= 0xD7:
            return at
        at += 2
    return len(content)
