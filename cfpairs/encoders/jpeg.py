"""Which JPEG files libjpeg-turbo and nvJPEG decode just as Pillow does, told from the header alone."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["is_plain_jpeg"]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_ORIENTATION = 0x0112
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive frames, coded by Huffman's method."""

_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE}
_SCAN, _APP1, _ADOBE = 0xDA, 0xE1, 0xEE
_RGB = b"RGB"
_MOST_PIXELS = 50_000_000
_LONGEST_ASPECT = 100


def is_plain_jpeg(content: bytes) -> bool:
    """Whether a file is a whole, upright, grey or YCbCr JPEG of a safe size.

    Other decoders neither turn an image as its EXIF says, nor tell that a file is cut short, and read CMYK
    and untransformed RGB otherwise than Pillow. Only the header is read, and Pillow is asked only where the
    file has EXIF or XMP data.
    """
    if not content.startswith(_START) or _END not in content[-64:]:
        return False
    segments = {marker: content[start:end] for marker, start, end in _segments(content)}
    frames = [body for marker, body in segments.items() if marker in _FRAMES]
    return (
        len(frames) == 1
        and _OTHER_FRAMES.isdisjoint(segments)
        and _plain_frame(frames[0])
        and _transformed(segments.get(_ADOBE, b""))
        and (_APP1 not in segments or _is_upright(content))
    )


def _segments(content: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of every segment before the first scan; none if the header is damaged."""
    found: list[tuple[int, int, int]] = []
    at, total = 2, len(content)
    while at + 4 <= total and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a byte that only fills
            at += 1
            continue
        if marker == _SCAN:
            return found
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        found.append((marker, at + 4, end))
        at = end
    return []


def _plain_frame(body: bytes) -> bool:
    """Eight bits, one or three components that are not R, G and B by name, and a safe size."""
    if len(body) < 6 or body[0] != 8:
        return False
    height, width, components = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    names = body[6::3]
    return (
        components in (1, 3)
        and names[:3] != _RGB
        and 0 < height * width <= _MOST_PIXELS
        and max(height, width) <= _LONGEST_ASPECT * min(height, width)
    )


def _transformed(adobe: bytes) -> bool:
    """Whether Adobe's note, if it is one, says YCbCr."""
    return not adobe.startswith(b"Adobe") or (len(adobe) >= 12 and adobe[11] == 1)


def _is_upright(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) == 1)
    except Exception:  # Pillow raises almost anything on damaged bytes
        return False
