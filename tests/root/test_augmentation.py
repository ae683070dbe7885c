"""Augmentation against torchvision, which transforms one image at a time, and against formulas."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from mnist_lib import data
from mnist_lib.augmentation import Crop, Rotation, Warp, center_crop, chosen, deskew, rotate
from mnist_lib.parameters import Recipe

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
    assert torch.equal(mixed, center_crop(digits, chosen, 22)), "if nothing else is said"


def test_what_comes_in_is_left_as_it_was(digits):
    before = digits.clone()
    rotate(digits, torch.full((12,), 30.0))
    center_crop(digits, torch.ones(12, dtype=torch.bool))
    warped(digits, rotation=30.0, elastic=2.0)
    deskew(digits)
    assert torch.equal(digits, before)


# -- which changes a recipe makes


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ({}, []),
        ({"rotation": 5.0}, [Rotation]),
        ({"rotation": 5.0, "crop_probability": 0.1}, [Crop, Rotation]),
        ({"rotation": 5.0, "shear": 0.1}, [Warp]),
        ({"elastic": 1.0, "crop_probability": 0.1}, [Crop, Warp]),
        ({"translation": 1.0}, [Warp]),
        ({"scale": 0.1}, [Warp]),
    ],
)
def test_images_are_resampled_once_whatever_bends_them(recipe, changes):
    assert chosen(Recipe(**recipe)) == changes


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_strength_scales_angles_and_probabilities(digits, strength):
    numbers = torch.linspace(0, 1, 12)[:, None]
    for how in ("bilinear", "nearest"):
        turned = Rotation(Recipe(rotation=40.0, interpolation=how))(digits, numbers, strength)
        expected = rotate(digits, torch.linspace(-40, 40, 12) * strength, how)
        assert (turned - expected).abs().mean() < 1e-4  # halfway between two pixels, rounding decides
    cropped = Crop(Recipe(crop_probability=0.8))(digits, numbers, strength)
    assert torch.equal(cropped, center_crop(digits, numbers[:, 0] < 0.8 * strength))


# -- warping


def warped(images: torch.Tensor, *numbers: float, strength: float = 1.0, **recipe: float) -> torch.Tensor:
    """Images whose first random numbers (angle, shear, width, height, right, down) are `numbers`, all others 0.5.

    0.5 stands for no change, 1 for the largest.
    """
    given = torch.full((len(images), Warp.numbers), 0.5)
    given[:, : len(numbers)] = torch.tensor(numbers)
    return Warp(Recipe(**recipe))(images, given, strength)


ALL_BENDS = {"rotation": 20.0, "shear": 0.3, "scale": 0.2, "translation": 3.0, "elastic": 2.0}


@pytest.mark.parametrize("seed", range(3))
def test_a_warp_without_strength_changes_nothing(digits, seed):
    numbers = torch.rand(12, Warp.numbers, generator=torch.Generator().manual_seed(seed))
    warp = Warp(Recipe(**ALL_BENDS))
    torch.testing.assert_close(warp(digits, numbers, 0.0), digits, rtol=0, atol=1e-5)
    assert (warp(digits, numbers, 1.0) - digits).abs().max() > 0.1


@pytest.mark.parametrize("degrees", [-20.0, 5.0, 20.0])
def test_a_warp_rotates_as_rotation_does(digits, degrees):
    turned = warped(digits, 0.5 + degrees / 2 / 25, rotation=25.0, translation=1.0)
    torch.testing.assert_close(turned, rotate(digits, torch.full((12,), degrees)), rtol=0, atol=1e-4)


def test_a_warp_moves_by_pixels(digits):
    left = warped(digits, 0.5, 0.5, 0.5, 0.5, 1.0, translation=3.0)
    torch.testing.assert_close(left[..., :-3], digits[..., 3:], rtol=0, atol=1e-5)
    down = warped(digits, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, translation=4.0, strength=0.5)
    torch.testing.assert_close(down[..., 2:, :], digits[..., :-2, :], rtol=0, atol=1e-5)


CENTRED = torch.arange(28.0) - 13.5
ACROSS = CENTRED.expand(1, 1, 28, 28)
"""An image whose pixels are their own distance to the right of the middle: a warp of it tells where it read."""


def middle(images: torch.Tensor) -> torch.Tensor:
    """What lies far enough from the edge to have been read inside of the image."""
    return images[..., 8:-8, 8:-8]


@pytest.mark.parametrize(
    ("numbers", "recipe", "reads"),
    [
        ((0.5, 1.0), {"shear": 0.2}, lambda x, y: x + 0.2 * y),
        ((0.5, 0.0), {"shear": 0.2}, lambda x, y: x - 0.2 * y),
        ((0.5, 0.5, 1.0), {"scale": 0.3}, lambda x, y: 1.3 * x),
        ((0.5, 0.5, 0.5, 1.0), {"scale": 0.3}, lambda x, y: x),
        ((0.5, 1.0, 0.0, 1.0), {"scale": 0.5, "shear": 0.2}, lambda x, y: 0.5 * x + 0.2 * 1.5 * y),
    ],
)
def test_shear_and_scale_read_where_the_formula_says(numbers, recipe, reads):
    expected = reads(CENTRED[None, :], CENTRED[:, None]).expand(1, 1, 28, 28)
    torch.testing.assert_close(middle(warped(ACROSS, *numbers, **recipe)), middle(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("degrees", [-30.0, 20.0])
def test_a_warp_reads_after_scaling_shearing_turning_and_moving_in_this_order(degrees):
    """The product of the three matrices, worked by hand."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    matrix = turn @ torch.tensor([[1.0, 0.3], [0.0, 1.0]]) @ torch.diag(torch.tensor([1.2, 0.6]))
    numbers = (0.5 + degrees / 2 / 30, 1.0, 0.75, 0.0, 1.0, 0.25)
    how = {"rotation": 30.0, "shear": 0.3, "scale": 0.4, "translation": 2.0}
    across, down = (warped(image, *numbers, **how) for image in (ACROSS, ACROSS.mT))
    places = torch.stack([ACROSS[0, 0], ACROSS[0, 0].T])
    expected = torch.einsum("ij,jyx->iyx", matrix, places) + torch.tensor([2.0, -1.0])[:, None, None]
    found = torch.cat([across, down])[:, 0]
    torch.testing.assert_close(middle(found), middle(expected), rtol=0, atol=1e-4)


def test_the_outer_knots_lie_on_the_corners_of_the_image():
    knots = torch.zeros(2, Warp.KNOTS, Warp.KNOTS)
    knots[0, :, 0], knots[0, :, -1] = 1.0, -1.0  # the left edge reads from the right of it, the right one from the left
    numbers = torch.cat([torch.zeros(6), knots.flatten()])[None] / 2 + 0.5
    moved = (Warp(Recipe(elastic=2.0))(ACROSS, numbers, 1.0) - ACROSS)[0, 0]
    for row in (0, 13, 27):
        assert moved[row, 0] == pytest.approx(2.0, abs=1e-3)
        assert moved[row, -1] == pytest.approx(-2.0, abs=1e-3)


def test_bending_moves_at_its_knots_by_what_is_drawn_and_nowhere_by_much_more():
    images = ACROSS.expand(50, 1, 28, 28)
    numbers = torch.rand(50, Warp.numbers, generator=torch.Generator().manual_seed(0))
    moved = Warp(Recipe(elastic=2.0))(images, numbers, 1.0) - images
    knots = (2 * numbers[:, 6 : 6 + 25].view(50, 5, 5) - 1) * 2.0
    torch.testing.assert_close(moved[:, 0, 13:15, 13:15].mean((1, 2)), knots[:, 2, 2], rtol=0, atol=0.2)
    inner = moved[:, 0, 3:-3, 3:-3]
    assert 2 < inner.abs().max() < 3  # a bicubic curve overshoots its points
    assert inner.mean().abs() < 0.1
    assert (inner.diff(dim=2)).abs().max() < 1, "nothing is folded over"


def test_every_image_is_warped_by_its_own_numbers(digits):
    numbers = torch.rand(12, Warp.numbers, generator=torch.Generator().manual_seed(0))
    warp = Warp(Recipe(**ALL_BENDS))
    alone = [warp(image[None], own[None], 1.0) for image, own in zip(digits, numbers, strict=True)]
    assert torch.equal(warp(digits, numbers, 1.0), torch.cat(alone))


# -- deskewing


def moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The centre of mass of each image, shape ``(n, 2)``, the covariance of x and y, and the variance of y."""
    mass = images[:, 0].double()
    place, total = CENTRED.double(), mass.sum((1, 2))
    x, y = (mass.sum(1) @ place) / total, (mass.sum(2) @ place) / total
    covariance = torch.einsum("nyx,y,x->n", mass, place, place) / total - x * y
    return torch.stack([x, y], 1), covariance, (mass.sum(2) @ place**2) / total - y**2


def test_a_deskewed_image_leans_to_neither_side_and_stays_where_it_is():
    images = data.load("digits")[0].images.unsqueeze(1) / 255
    upright = deskew(images)
    (centre, covariance, variance), (new_centre, new_covariance, _) = moments(images), moments(upright)
    within = (covariance / variance).abs() < 1
    assert within.float().mean() > 0.99
    assert covariance.abs().mean() > 2
    assert new_covariance[within].abs().max() < 0.2
    torch.testing.assert_close(new_centre, centre, rtol=0, atol=0.1)
    torch.testing.assert_close(upright.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.05, atol=0)


def test_a_leaning_bar_is_set_upright():
    bar = torch.zeros(28, 28)
    for row in range(6, 22):
        bar[row, 6 + row // 2 : 9 + row // 2] = 1.0
    upright = deskew(bar[None, None])[0, 0]
    lean = [(rows.sum(0) @ CENTRED) / rows.sum() for rows in (upright[6:10], upright[18:22])]
    assert abs(lean[1] - lean[0]) < 0.3


@pytest.mark.parametrize("kind", ["symmetric", "empty", "one row", "one pixel"])
def test_what_does_not_lean_is_not_sheared(digits, kind):
    images = torch.zeros(12, 1, 28, 28)
    if kind == "symmetric":
        images = (digits + digits.flip(-1)) / 2
    elif kind == "one row":
        images[:, :, 5, 3:20] = 1
    elif kind == "one pixel":
        images[:, :, 27, 27] = 1
    torch.testing.assert_close(deskew(images), images, rtol=0, atol=1e-4)


def test_what_is_faint_or_flat_is_set_upright_as_well(digits):
    torch.testing.assert_close(1e4 * deskew(digits * 1e-4), deskew(digits), rtol=0, atol=1e-3)
    flat = torch.zeros(1, 1, 28, 28)
    for row in (13, 14):
        flat[0, 0, row, row - 4 : row] = 1.0  # its rows are half a pixel from the middle
    assert moments(deskew(flat))[1].abs() < 0.02 < moments(flat)[1]


@pytest.mark.parametrize("side", [1, -1])
def test_no_image_is_sheared_by_more_than_one_pixel_a_row(side):
    """A line at 30 degrees leans 1.7 pixels a row, to either side; it still leans by the rest afterwards."""
    line = torch.zeros(1, 1, 28, 28)
    for row in range(10, 18):
        line[0, 0, row, round(3 + 1.7 * (row - 8)) : round(6 + 1.7 * (row - 8))] = 1.0
    line = line if side == 1 else line.flip(-1)
    _, covariance, variance = moments(line)
    _, left, _ = moments(deskew(line))
    assert (covariance / variance).item() == pytest.approx(side * 1.7, abs=0.1)
    assert (left / variance).item() == pytest.approx((covariance / variance).item() - side, abs=0.1)
