"""Augmentation against torchvision, which transforms one image at a time."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from mnist_lib import data
from mnist_lib.augmentation import center_crop, rotate

ANGLES = [-180.0, -90.0, -33.3, -5.0, -0.5, 0.25, 1.0, 7.0, 15.0, 45.0, 60.0, 90.0, 135.0, 180.0]


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Twelve images, shape (12, 1, 28, 28), from 0 to 1."""
    return data.load("digits")[0].images[:12].unsqueeze(1).float() / 255


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    """No two pixels alike: shape (3, 1, 28, 28)."""
    return torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("degrees", ANGLES)
def test_rotate_bilinear_as_torchvision(digits, noise, degrees):
    for images in (digits, noise):
        ours = rotate(images, torch.full((len(images),), degrees))
        theirs = reference.rotate(images, degrees, InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("degrees", ANGLES)
def test_rotate_nearest_as_torchvision(digits, noise, degrees):
    for images in (digits, noise):
        ours = rotate(images, torch.full((len(images),), degrees), "nearest")
        theirs = reference.rotate(images, degrees, InterpolationMode.NEAREST)
        # Halfway between two pixels, rounding decides which is the nearest.
        assert (ours != theirs).float().mean() < 0.005


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_zero_degrees_changes_nothing(noise, interpolation):
    torch.testing.assert_close(rotate(noise, torch.zeros(3), interpolation), noise, rtol=0, atol=1e-5)


def test_quarter_turn_is_counter_clockwise(digits):
    torch.testing.assert_close(rotate(digits, torch.full((12,), 90.0)), digits.rot90(1, (2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_every_image_gets_its_own_angle(digits, interpolation):
    degrees = torch.linspace(-20, 20, 12)
    together = rotate(digits, degrees, interpolation)
    alone = [rotate(image[None], angle[None], interpolation) for image, angle in zip(digits, degrees, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_what_comes_in_from_outside_is_background():
    turned = rotate(torch.ones(1, 1, 28, 28), torch.tensor([45.0]))
    assert turned[0, 0, 0, 0] == 0
    assert turned[0, 0, 14, 14] == 1
    assert turned.amin() >= 0
    assert turned.amax() <= 1 + 1e-6


@pytest.mark.parametrize("size", [22, 16, 28])
def test_center_crop_as_torchvision(digits, size):
    ours = center_crop(digits, torch.ones(12, dtype=torch.bool), size)
    theirs = reference.resize(reference.center_crop(digits, [size, size]), [28, 28], antialias=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_only_the_chosen_images_are_cropped(digits):
    chosen = torch.arange(12) % 3 == 0
    mixed = center_crop(digits, chosen)
    assert torch.equal(mixed[~chosen], digits[~chosen])
    assert torch.equal(mixed[chosen], center_crop(digits, torch.ones(12, dtype=torch.bool))[chosen])
    assert not torch.equal(mixed[chosen], digits[chosen])


def test_what_comes_in_is_left_as_it_was(digits):
    before = digits.clone()
    rotate(digits, torch.full((12,), 30.0))
    center_crop(digits, torch.ones(12, dtype=torch.bool))
    assert torch.equal(digits, before)
