"""Changes of training images at random, for whole batches on the device.

Images are ``(n, 1, height, width)`` with values from 0 (background) to 1. Every image of a batch gets its own random
numbers. They are drawn by the caller, from 0 to 1, so that these classes have no state that changes.
"""

import torch
from torch.nn import functional

from mnist_lib.parameters import Recipe


def chosen(recipe: Recipe) -> list[type]:
    """Return the classes of the changes that a recipe switches on, in the order in which they are made."""
    bends = recipe.is_affine or recipe.elastic
    used = {Crop: recipe.crop_probability, Warp: bends, Rotation: recipe.rotation and not bends}
    return [change for change, is_on in used.items() if is_on]


class Rotation:
    """Rotates each image by an angle of its own, up to ``rotation`` degrees to either side."""

    numbers = 1
    """How many random numbers an image needs."""

    def __init__(self, recipe: Recipe):
        self.largest, self.interpolation = recipe.rotation, recipe.interpolation

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, strength: float) -> torch.Tensor:
        """Change `images` by `numbers` of shape ``(n, 1)``; `strength`, from 0 to 1, scales the change."""
        return rotate(images, (2 * numbers[:, 0] - 1) * self.largest * strength, self.interpolation)


class Crop:
    """Enlarges the middle of some images, each with the probability ``crop_probability``."""

    numbers = 1

    def __init__(self, recipe: Recipe):
        self.probability = recipe.crop_probability

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, strength: float) -> torch.Tensor:
        """Change `images` by `numbers` of shape ``(n, 1)``; `strength` scales the probability."""
        return center_crop(images, numbers[:, 0] < self.probability * strength)


class Warp:
    """Rotates, shears, scales and moves each image, and bends it, in one resampling.

    All amounts are uniform, up to the recipe's to either side. Bending moves a grid of `KNOTS` × `KNOTS` points by up
    to ``elastic`` pixels; between them the shift is interpolated.
    """

    KNOTS = 5
    numbers = 6 + 2 * KNOTS**2

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, strength: float) -> torch.Tensor:
        """Change `images` by `numbers` of shape ``(n, 6 + 2 · KNOTS²)``; `strength` scales all amounts."""
        recipe, side = self.recipe, images.shape[-1]
        amounts = (2 * numbers - 1) * strength
        angle, shear = torch.deg2rad(amounts[:, 0] * recipe.rotation), amounts[:, 1] * recipe.shear
        wide, high = 1 + amounts[:, 2] * recipe.scale, 1 + amounts[:, 3] * recipe.scale
        right, down = (amounts[:, i] * recipe.translation * 2 / side for i in (4, 5))  # the image's side is 2 there
        cos, sin = torch.cos(angle), torch.sin(angle)
        # Where an output pixel reads: rotation after shearing after scaling, then the shift.
        rows = [[cos * wide, (cos * shear - sin) * high, right], [sin * wide, (sin * shear + cos) * high, down]]
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        if recipe.elastic:
            knots = amounts[:, 6:].view(-1, 2, self.KNOTS, self.KNOTS) * recipe.elastic * 2 / side
            bent = functional.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True)
            grid = grid + bent.permute(0, 2, 3, 1)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


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


def deskew(images: torch.Tensor) -> torch.Tensor:
    """Shear each image so that its pixels, as masses, lean to neither side: the mean of x does not change with y.

    The shear is the regression of x on y, from −1 to 1, about the centre of mass; nothing else is moved. It is a fixed
    function of one image, the same for training and test images.

    Arguments:
        images: shape ``(n, 1, h, w)``; an empty image stays as it is.
    """
    height, width = images.shape[2:]
    mass = images[:, 0]
    total = mass.sum((1, 2)).clamp_min(1e-6)
    y = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    x = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    mean_x = (mass.sum(1) @ x) / total
    mean_y = (mass.sum(2) @ y) / total
    covariance = torch.einsum("nhw,h,w->n", mass, y, x) / total - mean_x * mean_y
    variance = (mass.sum(2) @ y**2) / total - mean_y**2
    slope = (covariance / variance.clamp_min(1e-6)).clamp(-1, 1)
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    # x reads from x + slope · (y − mean_y); affine_grid's unit is half the image's side.
    first = torch.stack([one, slope * height / width, -slope * mean_y * 2 / width], 1)
    theta = torch.stack([first, torch.stack([zero, one, zero], 1)], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
