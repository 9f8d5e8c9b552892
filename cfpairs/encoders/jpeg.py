"""Which files nvJPEG decodes as Pillow does."""

from __future__ import annotations

import io
import warnings

from PIL import Image

__all__ = ["suits_nvjpeg"]

_ORIENTATION = 0x0112
_END = b"\xff\xd9"


def suits_nvjpeg(content: bytes) -> bool:
    """Whether a file is a whole, upright, grey or YCbCr JPEG of a safe size.

    Only the header is read. nvJPEG neither turns an image as its EXIF says nor tells that a file is cut
    short, and reads CMYK and untransformed RGB otherwise than Pillow.
    """
    if not content.startswith(b"\xff\xd8") or _END not in content[-64:]:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                plain = image.mode in ("RGB", "L") and image.info.get("adobe_transform", 1) == 1
                upright = image.getexif().get(_ORIENTATION, 1) == 1
                long, short = max(image.size), min(image.size)
    except Exception:  # Pillow raises almost anything on damaged bytes, and warns of huge images
        return False
    return plain and upright and long <= 100 * short
