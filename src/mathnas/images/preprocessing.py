"""What is done to images before a network sees them, as one record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.images import transforms

_TRIES = 10
# columns of a row of draws
_FLIP, _PLACE, _CUT, _BRIGHTNESS, _SATURATION, _BOXES = 0, (1, 2), (3, 4), 5, 6, 7
_DRAWS = _BOXES + 2 * _TRIES
_PAIRS = ("scale", "ratio")
_TRIPLES = ("mean", "std")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images are augmented for training and cut for testing.

    Training: pad and crop (`padding`) or random resized crop (`scale`, `ratio`), mirror, cutout,
    colour jitter, normalise. Testing: resize the shorter side to ceil(resolution / test_share), cut
    the middle, normalise. Store `to_dict()` beside weights: they fit no other preprocessing.

    Attributes:
        mean, std: of the channels, for values from 0 to 1.
        resolution: height and width of inputs, pixels.
        padding: pixels of black on each side before a part of the original size is cut out, which
            is then resized if it is not of `resolution`; None: a random resized crop.
        scale: smallest and largest share of the area of a random resized crop.
        ratio: smallest and largest width / height of it.
        mirror: whether half of the training images are mirrored.
        brightness: largest change of the factor of brightness, 0 to 1.
        saturation: the same of saturation; it is changed after brightness.
        cutout: side of a black square at a random place, pixels after resizing; 0: none.
        test_share: share of the shorter side that is kept for testing.

    Raises:
        InvalidInputError: a value is outside of its range.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    padding: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: bool = True
    brightness: float = 0.0
    saturation: float = 0.0
    cutout: int = 0
    test_share: float = 1.0

    def __post_init__(self) -> None:
        for holds, rule in (
            (len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "mean is three numbers"),
            (
                len(self.std) == 3 and all(0 < value < math.inf for value in self.std),
                "std is three positive numbers",
            ),
            (1 <= self.resolution <= 4096, "resolution is 1 to 4096"),
            (self.padding is None or 0 <= self.padding <= 512, "padding is 0 to 512, or None"),
            (
                len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 1,
                "scale is two ascending numbers above 0, up to 1",
            ),
            (
                len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1] < math.inf,
                "ratio is two ascending positive numbers",
            ),
            (0 <= self.brightness <= 1, "brightness is 0 to 1"),
            (0 <= self.saturation <= 1, "saturation is 0 to 1"),
            (0 <= self.cutout <= self.resolution, "cutout is 0 to the resolution"),
            (0 < self.test_share <= 1, "test_share is above 0, up to 1"),
        ):
            if not holds:
                name = rule.partition(" ")[0]
                raise InvalidInputError(f"{rule}, but got {getattr(self, name)}.")

    def at(self, resolution: int) -> Preprocessing:
        """The same with inputs of another size."""
        return dataclasses.replace(self, resolution=resolution)

    # ---- files -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, value: object, where: str = "preprocessing") -> Preprocessing:
        """What `to_dict` gave.

        Raises:
            FileFormatError: it is not that; `where` says which.
        """
        record = Record(value, where)
        fields = [field.name for field in dataclasses.fields(cls)]
        record.only(*fields)
        padding = record.get("padding", int) if "padding" in record else None
        lists = {name: tuple(record.numbers(name)) for name in (*_TRIPLES, *_PAIRS)}
        try:
            return cls(
                **lists,  # type: ignore[arg-type]
                padding=padding,
                resolution=record.get("resolution", int),
                mirror=record.get("mirror", bool),
                brightness=record.get("brightness", float),
                saturation=record.get("saturation", float),
                cutout=record.get("cutout", int),
                test_share=record.get("test_share", float),
            )
        except InvalidInputError as error:
            raise FileFormatError(f"{where}: {error}") from error

    # ---- images ----------------------------------------------------------------------------------

    def augment(self, images: Tensor | Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """Training inputs, float32 of shape (k, 3, resolution, resolution).

        Args:
            images: uint8, shape (k, 3, height, width), or images of different sizes.
            generator: a CPU generator; `draws(k, generator)` is all that is taken from it.
        """
        return self.augment_with(images, self.draws(len(images), generator))

    @staticmethod
    def draws(count: int, generator: torch.Generator) -> Tensor:
        """Random numbers in [0, 1) that decide how `count` images are augmented, one row each.

        Rows belong to images alone: a part of a batch with its rows gives that part of the result.
        """
        return torch.rand(count, _DRAWS, generator=generator, dtype=torch.float64)

    def augment_with(self, images: Tensor | Sequence[Tensor], draws: Tensor) -> Tensor:
        """As `augment`, with numbers that were drawn before."""
        if self.padding is not None and isinstance(images, Tensor):
            return self._finish(self._crop_padded(images, self.padding, draws), draws)
        # one by one to the end: small intermediate results stay in the processor's cache
        return self._inputs(
            self._finish(self._cut(one[None], draws[i : i + 1]), draws[i : i + 1])
            for i, one in enumerate(images)
        )

    def test(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Inputs for evaluation, float32 of shape (k, 3, resolution, resolution)."""
        if isinstance(images, Tensor):
            cut = transforms.centre_crop(images, self.resolution, self.test_share)
            return transforms.normalise(cut, self.mean, self.std)
        return self._inputs(self.test(one[None]) for one in images)

    def _inputs(self, parts: Iterable[Tensor]) -> Tensor:
        found = list(parts)
        side = self.resolution
        return torch.cat(found) if found else torch.empty(0, 3, side, side)

    def _cut(self, image: Tensor, draws: Tensor) -> Tensor:
        if self.padding is not None:
            return self._crop_padded(image, self.padding, draws)
        cut = self._crop_resized(image, draws[0])
        mirrored = self.mirror and float(draws[0, _FLIP]) < 0.5
        return cut.flip(3) if mirrored else cut

    def _finish(self, cut: Tensor, draws: Tensor) -> Tensor:
        draws = draws.to(cut.device)
        if self.cutout:
            down, across = ((draws[:, i] * self.resolution).long() for i in _CUT)
            cut = transforms.cutout(cut, self.cutout, down, across)
        if self.brightness or self.saturation:
            cut = self._jitter(cut, draws)
        return transforms.normalise(cut, self.mean, self.std)

    def _crop_padded(self, images: Tensor, padding: int, draws: Tensor) -> Tensor:
        draws = draws.to(images.device)
        down, across = ((draws[:, i] * (2 * padding + 1)).long() for i in _PLACE)
        mirrored = draws[:, _FLIP] < (0.5 if self.mirror else 0.0)
        cut = transforms.crop_padded(images, padding, down, across, mirrored)
        return transforms.centre_crop(cut, self.resolution, 1.0)

    def _crop_resized(self, image: Tensor, draws: Tensor) -> Tensor:
        numbers = draws.tolist()
        tries = [(numbers[i], numbers[i + 1]) for i in range(_BOXES, _DRAWS, 2)]
        place = (numbers[_PLACE[0]], numbers[_PLACE[1]])
        height, width = image.shape[-2:]
        top, left, down, across = transforms.random_box(
            height, width, tries, place, self.scale, self.ratio
        )
        part = image[:, :, top : top + down, left : left + across]
        return transforms.resize(part, self.resolution, self.resolution)

    def _jitter(self, images: Tensor, draws: Tensor) -> Tensor:
        brightness = 1 + self.brightness * (2 * draws[:, _BRIGHTNESS] - 1).to(torch.float32)
        saturation = 1 + self.saturation * (2 * draws[:, _SATURATION] - 1).to(torch.float32)
        return transforms.adjust_saturation(
            transforms.adjust_brightness(images, brightness), saturation
        )
