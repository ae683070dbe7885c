"""Augmentation of whole batches on the device.

Images are ``(n, 1, height, width)`` with values from 0 (background) to 1. Every image of a batch gets its own random
number; the numbers are drawn by the caller, so that these functions are pure.
"""

import torch
from torch.nn import functional


def rotate(images: torch.Tensor, degrees: torch.Tensor, interpolation: str = "bilinear") -> torch.Tensor:
    """Rotate each image counter-clockwise about its centre; what comes in from outside is background.

    Arguments:
        images: shape ``(n, 1, h, w)``.
        degrees: the angle of each image, shape ``(n,)``.
        interpolation: ``bilinear`` or ``nearest``.

    Returns:
        The rotated images, same shape.
    """
    angles = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode=interpolation, padding_mode="zeros", align_corners=False)


def center_crop(images: torch.Tensor, chosen: torch.Tensor, size: int = 22) -> torch.Tensor:
    """Cut the central ``size`` × ``size`` pixels out of the chosen images and enlarge them to the original size.

    Arguments:
        images: shape ``(n, 1, h, w)``.
        chosen: which images, bool, shape ``(n,)``.
        size: side of the crop in pixels.

    Returns:
        The images, same shape; those not chosen are unchanged.
    """
    height, width = images.shape[2:]
    top, left = (height - size) // 2, (width - size) // 2
    crop = images[:, :, top : top + size, left : left + size]
    enlarged = functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
    return torch.where(chosen[:, None, None, None], enlarged, images)
