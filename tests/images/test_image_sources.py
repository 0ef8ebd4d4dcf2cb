"""Sources: in memory, parquet, folders, parts; what they refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

import numpy as np
import torch
from images_cases import encoded, pixels, random_source, write_parquet
from PIL import Image

from mathnas.errors import FileFormatError, InvalidInputError, MissingDataError
from mathnas.images.folders import FolderImages
from mathnas.images.known import open_images
from mathnas.images.parquet import ParquetImages, read_parquet
from mathnas.images.sources import ImageSource, Subset, TensorImages, holdout

# ---- in memory -----------------------------------------------------------------------------------


def test_images_in_memory() -> None:
    source = random_source(6)
    assert (len(source), source.classes, source.size) == (6, 3, (8, 8))
    assert source.label(4) == 1
    images, labels = source.tensors()
    assert torch.equal(source.image(4), images[4])
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("images", "labels", "classes", "names", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), 1, None, "are uint8"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2, dtype=torch.int64), 1, None, "shape"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3, dtype=torch.int64), 1, None, "3 labels"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0, 2]), 2, None, "image 1 has the label 2"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([-1, 0]), 2, None, "image 0 has the label"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0.0, 1.0]), 2, None, "class indices"),
        (torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0).long(), None, None, "at least one"),
        (torch.zeros(1, 3, 4, 4).byte(), torch.tensor([0]), 2, ["cat"], "1 names for 2 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int | None,
    names: list[str] | None,
    message: str,
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TensorImages(images, labels, classes, names)


# ---- parts ---------------------------------------------------------------------------------------


def test_held_out_images_are_balanced_and_disjoint() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    source = TensorImages(images, labels)
    rest, held = holdout(source, 10, seed=4)
    assert torch.bincount(held.labels).tolist() == [5, 3, 2]
    assert torch.bincount(rest.labels).tolist() == [45, 27, 18]
    assert sorted([*held.positions.tolist(), *rest.positions.tolist()]) == list(range(100))
    assert held.positions.tolist() == sorted(held.positions.tolist())
    assert held.image(3)[0, 0, 0] == held.positions[3]
    assert torch.equal(held.tensors()[0], images[held.positions])
    assert torch.equal(holdout(source, 10, seed=4)[1].positions, held.positions)
    assert not torch.equal(holdout(source, 10, seed=5)[1].positions, held.positions)


@pytest.mark.parametrize("count", [1, 2, 17, 58, 59])
def test_every_class_gives_its_share_up_to_one(count: int) -> None:
    source = random_source(60, side=2, classes=7)
    sizes = torch.bincount(source.labels)
    _, held = holdout(source, count)
    assert len(held) == count
    taken = torch.bincount(held.labels, minlength=7)
    assert ((taken - count * sizes / 60).abs() < 1).all()


def test_a_part_of_a_part() -> None:
    source = random_source(20)
    part = Subset(Subset(source, torch.tensor([4, 9, 2])), torch.tensor([2, 0]))
    assert part.labels.tolist() == [source.label(2), source.label(4)]
    assert torch.equal(part.tensors()[0], source.tensors()[0][[2, 4]])
    with pytest.raises(InvalidInputError, match=r"positions 0 to 19, but got 20"):
        Subset(source, torch.tensor([0, 20]))
    for count in (0, 20):
        with pytest.raises(InvalidInputError, match=f"1 to 19 can be held out, but got {count}"):
            holdout(source, count)


# ---- parquet -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"image": "img", "label": "fine_label"},
        {"struct": False, "group": 2},
        {"group": 1},
    ],
)
def test_parquet_layouts(layout: dict[str, object], tmp_path: Path) -> None:
    files = [encoded(seed=seed) for seed in range(5)]
    path = write_parquet(tmp_path / "a.parquet", files, [2, 0, 1, 0, 2], **layout)  # type: ignore[arg-type]
    for source in (read_parquet(path), ParquetImages([path])):
        assert source.labels.tolist() == [2, 0, 1, 0, 2]
        assert source.classes == 3
        for index in range(5):
            expected = torch.from_numpy(pixels(seed=index)).permute(2, 0, 1)
            assert torch.equal(source.image(index), expected)
    assert read_parquet(path).size == (8, 8)
    assert ParquetImages([path]).size is None
    with pytest.raises(InvalidInputError, match="does not hold its 5 images in memory"):
        ParquetImages([path]).tensors()


def test_images_of_several_sizes_are_decoded_when_asked_for(tmp_path: Path) -> None:
    files = [encoded(8, 8), encoded(9, 8), encoded(8, 7)]
    source = read_parquet(write_parquet(tmp_path / "a.parquet", files, [0, 1, 1]))
    assert isinstance(source, ParquetImages)
    assert [tuple(source.image(i).shape) for i in range(3)] == [(3, 8, 8), (3, 9, 8), (3, 8, 7)]


def test_memory_decides_what_is_decoded_at_once(tmp_path: Path) -> None:
    files = [encoded(seed=seed) for seed in range(4)]
    path = write_parquet(tmp_path / "a.parquet", files, [0, 1, 0, 1])
    assert isinstance(read_parquet(path, memory_bytes=4 * 3 * 8 * 8), TensorImages)
    assert isinstance(read_parquet(path, memory_bytes=4 * 3 * 8 * 8 - 1), ParquetImages)


def test_few_row_groups_stay_in_memory(tmp_path: Path) -> None:
    files = [encoded(seed=seed) for seed in range(12)]
    path = write_parquet(tmp_path / "a.parquet", files, [0, 1] * 6, group=2)
    everything = ParquetImages([path])
    assert everything.groups is None
    few = ParquetImages([path], cache_bytes=1_000)  # a group has about 500 bytes
    assert few.groups is not None
    assert [group.tolist() for group in few.groups] == [[i, i + 1] for i in range(0, 12, 2)]
    for index in (11, 0, 7, 7, 3, 0, 10, 5):
        assert torch.equal(few.image(index), everything.image(index))
        assert len(few._cache) <= few._kept < 6


def test_shards_are_one_source_and_metadata_names_classes(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(
            tmp_path / f"train-0000{number}-of-00003.parquet",
            [encoded(seed=2 * number), encoded(seed=2 * number + 1)],
            [number, 0],
            names=["ant", "bee", "cow", "dog"],
        )
    source = read_parquet(tmp_path)
    assert source.labels.tolist() == [0, 0, 1, 0, 2, 0]
    assert source.class_names == ("ant", "bee", "cow", "dog")
    assert source.classes == 4
    assert torch.equal(source.image(5), torch.from_numpy(pixels(seed=5)).permute(2, 0, 1))


GOOD = encoded(seed=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:60], "truncated|cannot be read|damaged"),
        (encoded(64, 64, form="JPEG")[:700], "truncated|cannot be read"),
        (b"not an image", "is not an image"),
        (b"", "is not an image"),
        (None, "has no image"),
        (encoded(form="GIF"), "is not an image that is read here"),
    ],
    ids=["short", "half", "text", "empty", "missing", "gif"],
)
def test_a_damaged_image_is_named(data: bytes | None, message: str, tmp_path: Path) -> None:
    files = [GOOD, GOOD, data, GOOD]
    path = write_parquet(tmp_path / "a.parquet", files, [0, 1, 0, 1], group=3)
    with pytest.raises(FileFormatError, match=rf"a\.parquet, row 2.*({message})"):
        read_parquet(path)
    source = ParquetImages([path])
    source.image(3)
    with pytest.raises(FileFormatError, match=r"a\.parquet, row 2"):
        source.image(2)


def test_flipped_bytes_never_give_another_kind_of_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        whole = encoded(16, 16, form=form)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(0, 256)
            path = tmp_path / "a" / f"x.{form.lower()}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(data))
            with contextlib.suppress(FileFormatError):  # some changes are only other pixels
                assert FolderImages(tmp_path).image(0).shape[0] == 3
            path.unlink()


def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a" / "bomb.png")
    with pytest.raises(FileFormatError, match="9000 x 9000 pixels"):
        FolderImages(tmp_path).image(0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, None], "row 1 has no label"), ([0, -1], "image 1 has the label -1")],
)
def test_labels_are_checked(labels: list[int | None], message: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [GOOD, GOOD], labels)
    with pytest.raises((FileFormatError, InvalidInputError), match=message):
        read_parquet(path)


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [GOOD, GOOD], [0, 7])
    with pytest.raises(InvalidInputError, match="labels are 0 to 4"):
        read_parquet(path, classes=5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [GOOD], [0], label="category")
    with pytest.raises(
        FileFormatError, match=r"no column of class indices.*it has image, category"
    ):
        read_parquet(path)
    path = write_parquet(tmp_path / "b.parquet", [GOOD], [0], image="picture")
    with pytest.raises(FileFormatError, match="no column of images"):
        read_parquet(path)
    whole = write_parquet(tmp_path / "c.parquet", [GOOD] * 40, [0] * 40).read_bytes()
    for damaged in (whole[:-20], whole[:100], b"rows", b""):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"b\.parquet"):
            read_parquet(path)
    path.write_bytes(bytes(4) + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(FileFormatError, match=r"b\.parquet"):
        read_parquet(path)
    path.write_bytes(whole.replace(b"label", b"\xd3abel"))  # a name that is no text
    with pytest.raises(FileFormatError, match=r"b\.parquet"):
        read_parquet(path)
    with pytest.raises(InvalidInputError, match="at least one"):
        read_parquet(write_parquet(tmp_path / "d.parquet", [], []))
    with pytest.raises(InvalidInputError, match=r"absent\.parquet is none"):
        read_parquet(tmp_path / "absent.parquet")


# ---- folders -------------------------------------------------------------------------------------


def write_folder(root: Path, counts: dict[str, int]) -> None:
    for seed, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.JPG").write_bytes(encoded(6 + number, 8, seed, "JPEG"))


def test_folders_are_classes_in_the_order_of_names(tmp_path: Path) -> None:
    write_folder(tmp_path, {"n02": 2, "n01": 3})
    (tmp_path / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "n01" / "more").mkdir()
    (tmp_path / "n01" / "more" / "x.png").write_bytes(encoded(4, 4, mode="L"))
    (tmp_path / ".cache").mkdir()
    source = FolderImages(tmp_path)
    assert source.class_names == ("n01", "n02")
    assert source.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert [tuple(source.image(i).shape[1:]) for i in range(6)] == [
        *[(6, 8), (7, 8), (8, 8), (4, 4)],
        *[(6, 8), (7, 8)],
    ]
    grey = source.image(3)
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_all_kinds_of_colours_become_rgb(mode: str, tmp_path: Path) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / f"x.{form.lower()}"
    path.write_bytes(encoded(4, 5, form=form, mode=mode))
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.array(image.convert("RGB"))
    assert torch.equal(FolderImages(tmp_path).image(0).permute(1, 2, 0), torch.from_numpy(expected))


def test_deep_colours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "a" / "x.png")
    with pytest.raises(FileFormatError, match=r"x\.png is an image of the kind 'I;16'"):
        FolderImages(tmp_path).image(0)


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"absent is none"):
        FolderImages(tmp_path / "absent")
    with pytest.raises(InvalidInputError, match="there are none"):
        FolderImages(tmp_path)
    write_folder(tmp_path, {"ant": 1, "bee": 0})
    with pytest.raises(InvalidInputError, match="'bee' has none"):
        FolderImages(tmp_path)
    with pytest.raises(InvalidInputError, match="'bee' is none of them"):
        FolderImages(tmp_path, ["ant", "cow"])
    assert FolderImages(tmp_path, ["aardvark", "ant", "bee"]).labels.tolist() == [1]


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"ant": 1})
    source = FolderImages(tmp_path)
    (tmp_path / "ant" / "0.JPG").unlink()
    with pytest.raises(FileFormatError, match=r"0\.JPG cannot be read: No such file"):
        source.image(0)


# ---- by name -------------------------------------------------------------------------------------


def test_folders_with_training_and_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"ant": 2, "bee": 1, "cow": 1})
    write_folder(tmp_path / "val", {"ant": 1, "cow": 2})
    training = open_images(f"folder:{tmp_path}")
    test = open_images(f"folder:{tmp_path}", "test")
    assert training.labels.tolist() == [0, 0, 1, 2]
    assert test.labels.tolist() == [0, 2, 2]
    assert test.class_names == training.class_names
    # one part alone: its name tells which
    assert len(open_images(f"folder:{tmp_path / 'val'}", "test")) == 3
    with pytest.raises(InvalidInputError, match="one set of test images"):
        open_images(f"folder:{tmp_path / 'val'}", "train")
    with pytest.raises(InvalidInputError, match=r"one set of train images.*hold some"):
        open_images(f"folder:{tmp_path / 'train'}", "test")
    write_folder(tmp_path / "test", {"ant": 1})
    assert len(open_images(f"folder:{tmp_path}", "test")) == 1
    (tmp_path / "train2").mkdir()
    with pytest.raises(InvalidInputError, match="got train, train2 among"):
        open_images(f"folder:{tmp_path}")


def test_parquet_files_with_training_and_test_images(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [GOOD] * 3, [0, 1, 4])
    write_parquet(tmp_path / "train-1.parquet", [GOOD] * 2, [2, 3])
    write_parquet(tmp_path / "validation-0.parquet", [GOOD] * 2, [0, 1])
    training = open_images(f"parquet:{tmp_path}")
    test = open_images(f"parquet:{tmp_path}", "test")
    assert training.labels.tolist() == [0, 1, 4, 2, 3]
    assert test.labels.tolist() == [0, 1]
    assert test.classes == training.classes == 5
    assert len(open_images(f"parquet:{tmp_path / 'validation-0.parquet'}", "test")) == 2
    with pytest.raises(InvalidInputError, match="one set of train images"):
        open_images(f"parquet:{tmp_path / 'train-0.parquet'}", "test")
    (tmp_path / "validation-0.parquet").unlink()
    with pytest.raises(InvalidInputError, match=r"start with test or val, but got train-0"):
        open_images(f"parquet:{tmp_path}", "test")


@pytest.mark.parametrize("text", ["mnist", "folder", "parquet:", "cifar10:x", ""])
def test_unknown_names_list_the_known_ones(text: str) -> None:
    with pytest.raises(
        InvalidInputError, match="are cifar10, imagenet-sample, folder:PATH or parquet:PATH"
    ):
        open_images(text)
    with pytest.raises(InvalidInputError, match="splits train and test"):
        open_images("cifar10", "validation")  # type: ignore[arg-type]


def test_missing_public_images_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATHNAS_DATA", raising=False)
    with pytest.raises(MissingDataError, match=r"cifar10/test\.parquet.*MATHNAS_DATA"):
        open_images("cifar10", "test")


@pytest.fixture(scope="session")
def public(require: Callable[..., Path]) -> Callable[[str, str, str], ImageSource]:
    def opened(text: str, dataset: str, file: str) -> ImageSource:
        require(dataset, file)
        return open_images(text, "test")

    return opened


def test_cifar10(public: Callable[[str, str, str], ImageSource]) -> None:
    source = public("cifar10", "cifar10", "test.parquet")
    assert (len(source), source.classes, source.size) == (10_000, 10, (32, 32))
    assert torch.bincount(source.labels).tolist() == [1_000] * 10
    images, _ = source.tensors()
    # the published means of the training images; JPEG and another split change little
    means = images.float().mean((0, 2, 3))
    assert torch.allclose(means, torch.tensor([125.3, 123.0, 113.9]), atol=1.5)
    assert source.class_names is not None
    # ships and airplanes are on blue grounds, frogs and deer are not
    blue = {
        name: float((images[source.labels == i, 2].float() - images[source.labels == i, 0]).mean())
        for i, name in enumerate(source.class_names)
    }
    assert sorted(blue, key=blue.__getitem__)[-2:] == ["ship", "airplane"]


def test_the_imagenet_sample(public: Callable[[str, str, str], ImageSource]) -> None:
    source = public("imagenet-sample", "imagenet_sample", "validation.parquet")
    assert (source.classes, source.size) == (1_000, (256, 256))
    assert source.labels.tolist() == list(range(1_000))
    with pytest.raises(InvalidInputError, match="for comparisons"):
        open_images("imagenet-sample", "train")
