"""The way from decoded pixels to a square in torch, for images that are on the GPU already."""

from __future__ import annotations

import torch
from torch.nn import functional

from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.preprocessing import cover, fit

__all__ = ["square_tensor"]


def square_tensor(images: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """Resize, and crop or pad to a square: `preprocessing.square_pixels` on the tensor's own device.

    Parameters
    ----------
    images : Tensor of shape (b, 3, h, w)
        uint8.
    how : Preprocessing
        Its interpolation is ``bicubic`` or ``bilinear``, which torch does with antialiasing, as Pillow.

    Returns
    -------
    Tensor of shape (b, 3, size, size)
        uint8, within one level of Pillow's.
    """
    height, width = images.shape[-2:]
    if how.resize_mode == "squash":
        return _crop(_resize(images, (how.resize, how.resize), how), how.size)
    if how.resize_mode == "longest":
        return _pad(_resize(images, fit((width, height), how.size), how), how)
    return _crop(_resize(images, cover((width, height), how.resize), how), how.size)


def _resize(images: torch.Tensor, size: tuple[int, int], how: Preprocessing) -> torch.Tensor:
    """To (width, height) `size`; the width first, and to whole levels between, as Pillow does."""
    for shape in ((images.shape[-2], size[0]), (size[1], size[0])):
        if shape != tuple(images.shape[-2:]):
            resized = functional.interpolate(
                images.float(), size=shape, mode=how.interpolation, antialias=True, align_corners=False
            )
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
    return images


def _crop(images: torch.Tensor, size: int) -> torch.Tensor:
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size].contiguous()


def _pad(images: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    height, width = images.shape[-2:]
    left, top = (how.size - width) // 2, (how.size - height) // 2
    margins = (left, how.size - width - left, top, how.size - height - top)
    return functional.pad(images, margins, value=how.fill)
