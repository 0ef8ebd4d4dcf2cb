"""Transforms against direct computations, pillow, and image by image."""

from __future__ import annotations

import itertools
import json
import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

import numpy as np
import torch
from images_cases import pixels, random_source
from PIL import Image, ImageEnhance
from torch import Tensor

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.images import transforms
from mathnas.images.known import CIFAR10, IMAGENET, preprocessing_named
from mathnas.images.preprocessing import Preprocessing


def image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(pixels(height, width, seed)).permute(2, 0, 1)


def smooth(height: int, width: int) -> Tensor:
    """An image like a photograph: colours change slowly."""
    down, across = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(down / 9 + k) * np.cos(across / 7 - k) for k in range(3)]
    return torch.from_numpy(np.stack(waves).astype(np.uint8))


def as_pillow(one: Tensor) -> Image.Image:
    return Image.fromarray(one.permute(1, 2, 0).contiguous().numpy())


def undone(inputs: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixels of normalised inputs."""
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.std, preprocessing.mean))
    return 255 * (inputs * std + mean)


# ---- each ----------------------------------------------------------------------------------------


def test_normalising() -> None:
    images = random_source(2).tensors()[0]
    values = transforms.normalise(images, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    assert values.dtype == torch.float32
    for k, row, column in ((0, 0, 0), (1, 5, 7)):
        for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), strict=True)):
            expected = (int(images[k, channel, row, column]) / 255 - mean) / std
            assert float(values[k, channel, row, column]) == pytest.approx(expected, abs=1e-5)


def test_every_crop_of_a_padded_image() -> None:
    one = image(5, 6)
    offsets = list(itertools.product(range(5), range(5), (False, True)))
    down, across, mirrored = (torch.tensor(values) for values in zip(*offsets, strict=True))
    crops = transforms.crop_padded(one.expand(len(offsets), 3, 5, 6), 2, down, across, mirrored)
    padded = torch.zeros(3, 9, 10, dtype=torch.uint8)
    padded[:, 2:7, 2:8] = one
    for crop, (top, left, mirror) in zip(crops, offsets, strict=True):
        expected = padded[:, top : top + 5, left : left + 6]
        assert torch.equal(crop, expected.flip(2) if mirror else expected)


@pytest.mark.parametrize("size", [(20, 30), (64, 48), (41, 37)])
def test_resizing_is_pillows(size: tuple[int, int]) -> None:
    one = smooth(41, 37)
    resized = transforms.resize(one[None], *size)[0]
    theirs = np.asarray(as_pillow(one).resize(size[::-1], Image.Resampling.BILINEAR))
    difference = resized.permute(1, 2, 0).int() - torch.from_numpy(theirs.copy()).int()
    assert difference.abs().max() <= 1
    assert transforms.resize(one[None], 41, 37)[0] is not None


@pytest.mark.parametrize(
    ("height", "width", "resolution", "share"),
    [
        (50, 60, 32, 0.875),
        (60, 50, 32, 0.875),
        (32, 32, 32, 1.0),
        (40, 40, 48, 0.875),
        (7, 90, 5, 1),
    ],
)
def test_the_middle_is_cut(height: int, width: int, resolution: int, share: float) -> None:
    one = smooth(height, width)
    cut = transforms.centre_crop(one[None], resolution, share)
    assert cut.shape == (1, 3, resolution, resolution)
    shorter = math.ceil(resolution / share)
    sides = [shorter * side // min(height, width) for side in (height, width)]
    top, left = (round((side - resolution) / 2) for side in sides)
    whole = as_pillow(one).resize(sides[::-1], Image.Resampling.BILINEAR)
    theirs = np.asarray(whole.crop((left, top, left + resolution, top + resolution)))
    assert (cut[0].permute(1, 2, 0).int() - torch.from_numpy(theirs.copy()).int()).abs().max() <= 1


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.4])
def test_colours_change_as_pillow_changes_them(factor: float) -> None:
    one = image(9, 9)
    factors = torch.tensor([1.0, factor])
    for ours, theirs in (
        (transforms.adjust_brightness, ImageEnhance.Brightness),
        (transforms.adjust_saturation, ImageEnhance.Color),
    ):
        changed = ours(torch.stack([one, one]), factors)
        assert torch.allclose(changed[0], one.float(), atol=1e-3)
        expected = np.asarray(theirs(as_pillow(one)).enhance(factor)).astype(np.float32)
        assert np.abs(changed[1].permute(1, 2, 0).numpy() - expected).max() <= 1.5  # theirs rounds


def test_cutout_blacks_a_square() -> None:
    images = torch.full((3, 3, 8, 8), 9, dtype=torch.uint8)
    cut = transforms.cutout(images, 4, torch.tensor([4, 0, 7]), torch.tensor([3, 0, 4]))
    expected = images.clone()
    expected[0, :, 2:6, 1:5] = 0
    expected[1, :, 0:2, 0:2] = 0
    expected[2, :, 5:8, 2:6] = 0
    assert torch.equal(cut, expected)


def test_boxes_have_their_area_and_shape() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        tries = [(float(a), float(b)) for a, b in rng.random((10, 2))]
        place = (float(rng.random()), float(rng.random()))
        top, left, height, width = transforms.random_box(
            200, 300, tries, place, (0.08, 1), (3 / 4, 4 / 3)
        )
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        assert 0.74 < width / height < 1.35
        areas.append(height * width / 60_000)
    assert 0.07 < min(areas) < 0.12
    # parts of nearly the whole area do not fit into this shape
    assert 0.75 < max(areas) <= 8 / 9 + 1e-2


def test_an_image_that_no_box_fits_gives_its_middle() -> None:
    place = (0.9, 0.9)
    never = [(0.99, 0.5)] * 10
    assert transforms.random_box(10, 100, never, place, (0.9, 1), (3 / 4, 4 / 3)) == (0, 43, 10, 13)
    assert transforms.random_box(100, 10, never, place, (0.9, 1), (3 / 4, 4 / 3)) == (43, 0, 13, 10)


# ---- together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preprocessing",
    [
        CIFAR10.at(8),
        CIFAR10.at(12),
        IMAGENET.at(16),
        Preprocessing(mean=(0.5,) * 3, std=(1.0,) * 3, resolution=8, padding=1, cutout=3),
        Preprocessing(mean=(0.5,) * 3, std=(1.0,) * 3, resolution=8, mirror=False),
    ],
)
def test_every_image_is_augmented_by_its_own_numbers(preprocessing: Preprocessing) -> None:
    images = random_source(12).tensors()[0]
    draws = preprocessing.draws(12, torch.Generator().manual_seed(1))
    together = preprocessing.augment_with(images, draws)
    assert together.shape == (12, 3, preprocessing.resolution, preprocessing.resolution)
    assert together.dtype == torch.float32
    for part in (slice(0, 5), slice(5, 12)):
        assert torch.equal(preprocessing.augment_with(images[part], draws[part]), together[part])
    one_by_one = preprocessing.augment_with(list(images), draws)
    assert torch.allclose(one_by_one, together, atol=1e-5)
    again = preprocessing.augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(again, together)
    assert not torch.equal(preprocessing.augment(images, torch.Generator().manual_seed(2)), again)


def test_padded_crops_are_all_there_and_equally_often() -> None:
    one = image(8, 8)
    preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, resolution=8, padding=1)
    crops = preprocessing.augment(one.expand(3_600, 3, 8, 8), torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(one, (1, 1, 1, 1)).float()
    for top, left, mirror in itertools.product(range(3), range(3), (False, True)):
        expected = padded[:, top : top + 8, left : left + 8]
        expected = expected.flip(2) if mirror else expected
        count = int(((crops - expected).abs() < 1e-3).flatten(1).all(1).sum())
        assert 140 < count < 260  # 200 expected, standard deviation 14


def test_images_of_different_sizes_become_one_batch() -> None:
    images = [image(20, 30), image(33, 17), image(16, 16)]
    generator = torch.Generator().manual_seed(0)
    assert IMAGENET.at(16).augment(images, generator).shape == (3, 3, 16, 16)
    tested = IMAGENET.at(16).test(images)
    assert tested.shape == (3, 3, 16, 16)
    assert torch.equal(tested[1:2], IMAGENET.at(16).test(images[1][None]))


def test_small_images_are_enlarged_where_asked_for() -> None:
    images = smooth(32, 32)[None]
    assert torch.equal(
        CIFAR10.test(images), transforms.normalise(images, CIFAR10.mean, CIFAR10.std)
    )
    large = undone(CIFAR10.at(64).test(images), CIFAR10)
    assert large.shape == (1, 3, 64, 64)
    # bilinear: the mean of a smooth image stays
    assert torch.allclose(large.mean((2, 3)), images.float().mean((2, 3)), atol=0.5)


# ---- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", [CIFAR10, IMAGENET, CIFAR10.at(48)])
def test_records_are_restored(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, 0.5]}, "mean is three numbers"),
        ({"std": [0.5, 0.0, 1.0]}, "std is three positive numbers"),
        ({"std": "wide"}, "std"),
        ({"resolution": 0}, "resolution is 1 to 4096, but got 0"),
        ({"resolution": 32.5}, "resolution"),
        ({"padding": -1}, "padding"),
        ({"scale": [0.5, 0.1]}, "scale is two ascending"),
        ({"ratio": [0.0, 1.0]}, "ratio is two"),
        ({"brightness": 2}, "brightness is 0 to 1"),
        ({"cutout": 33}, "cutout"),
        ({"test_share": 0.0}, "test_share"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"mirror": None}, "'mirror' is missing"),
    ],
)
def test_damaged_records_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(FileFormatError, match=rf"net\.notes.*{message}"):
        Preprocessing.from_dict({**CIFAR10.to_dict(), **change}, "net.notes")
    with pytest.raises(FileFormatError, match="expected an object"):
        Preprocessing.from_dict([])


def test_preprocessing_by_name() -> None:
    assert preprocessing_named("imagenet") is IMAGENET
    with pytest.raises(InvalidInputError, match="known preprocessings are cifar10, cifar100"):
        preprocessing_named("mnist")
