"""The readers of image files in folders, ImageNet and Tiny ImageNet, and the folders that they refuse."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from forcetune.data import checks, load
from forcetune.data.readers import imagenet, tiny_imagenet
from forcetune.errors import InputError

pytestmark = pytest.mark.usefixtures("empty_load_cache")


def write_picture(path, colour, size=(64, 64)):
    """Write a JPEG of one colour: three channels, or one channel for a grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path, format="JPEG", quality=95)


GREEN, RED, GREY = (20, 200, 40), (220, 30, 10), 90


def write_tiny_imagenet(folder):
    for wnid, colour in (("n02", GREEN), ("n01", GREY)):
        for number in range(2):
            write_picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").touch()
    for number, colour in enumerate((RED, GREY, GREEN)):
        write_picture(folder / "val" / "images" / f"val_{number}.JPEG", colour)
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n" for number, wnid in enumerate(("n02", "n01", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\n")


def write_imagenet(folder):
    for split, size in (("train", (300, 400)), ("val", (500, 260))):
        for number, (wnid, colour) in enumerate((("n01", GREY), ("n02", GREEN), ("n03", RED))):
            write_picture(folder / split / wnid / f"{split}_{number}.JPEG", colour, size)
            write_picture(folder / split / wnid / f"{split}_{number}b.JPEG", colour, size)


def measure_colours(dataset, source, mean, std):
    """Return the one colour of each image after the evaluation transform, as bytes, and its class."""
    colours = []
    for raw, target in (source[index] for index in range(len(source))):
        values = dataset.eval_transform(raw) * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        assert values.shape == dataset.input_shape
        assert float((values.amax((1, 2)) - values.amin((1, 2))).max()) < 0.02
        colours.append(((values.mean((1, 2)) * 255).tolist(), target))
    return colours


def near_colour(colour):
    return pytest.approx((colour,) * 3 if isinstance(colour, int) else colour, abs=3)


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path, inside):
    write_tiny_imagenet(tmp_path / inside)
    data = tiny_imagenet(str(tmp_path))
    checks.check(data)
    statistics = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    assert (data.classes, data.input_shape) == (2, (3, 64, 64))
    assert measure_colours(data, data.test, *statistics) == [
        (near_colour(RED), 1),
        (near_colour(GREY), 0),
        (near_colour(GREEN), 1),
    ]
    train = measure_colours(data, data.train, *statistics)
    assert train == [(near_colour(GREY), 0)] * 2 + [(near_colour(GREEN), 1)] * 2
    assert data.train.targets.tolist() == [target for _, target in train]


def test_imagenet(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "data" / "imagenet")
    monkeypatch.chdir(tmp_path)
    data = load("imagenet")
    checks.check(data)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = [(near_colour(colour), label) for label, colour in enumerate((GREY, GREEN, RED)) for _ in range(2)]
    for source in (data.train, data.test):
        assert measure_colours(data, source, *statistics) == expected
    assert (data.classes, data.input_shape, data.validation) == (3, (3, 224, 224), 0.04)


@pytest.mark.parametrize(("reader", "write"), [(tiny_imagenet, write_tiny_imagenet), (imagenet, write_imagenet)])
def test_photographs_are_cropped_and_mirrored_in_training_only(tmp_path, reader, write):
    write(tmp_path)
    data = reader(str(tmp_path))
    ramp = Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    torch.manual_seed(0)
    images = [data.train_transform(ramp) for _ in range(6)]
    assert {tuple(image.shape) for image in images} == {data.input_shape}
    assert len({float(image.sum()) for image in images}) == 6
    assert torch.equal(data.eval_transform(ramp), data.eval_transform(ramp))


def test_hidden_and_other_files_are_no_images(tmp_path):
    write_imagenet(tmp_path)
    (tmp_path / "train" / "n01" / "._train_0.JPEG").write_bytes(b"left by a copy")
    (tmp_path / "train" / "n01" / "list.txt").touch()
    (tmp_path / "train" / ".cache").mkdir()
    assert len(imagenet(str(tmp_path)).train) == 6


def without(path):
    return lambda folder: (folder / path).rename(folder / "elsewhere")


def emptied(path):
    return lambda folder: [file.unlink() for file in (folder / path).iterdir()]


def with_text(path, text):
    return lambda folder: (folder / path).write_text(text)


ANNOTATIONS_FILE = "val/val_annotations.txt"
SPOILT_FOLDERS = {
    "no wnids": (tiny_imagenet, without("wnids.txt"), "no wnids.txt in"),
    "no class": (tiny_imagenet, without("train/n02"), "train/n02/images has no images, or is missing"),
    "no val": (tiny_imagenet, without("val/images"), "val/images has no images, or is missing"),
    "no annotations": (tiny_imagenet, without(ANNOTATIONS_FILE), "val_annotations.txt is not readable"),
    "no file": (tiny_imagenet, without("val/images/val_1.JPEG"), "line 2: 'val_1.JPEG' is not in .*val/images"),
    "other wnid": (
        tiny_imagenet,
        with_text(ANNOTATIONS_FILE, "val_0.JPEG\tn9\t0\n"),
        "line 1: 'n9' is not in wnids.txt",
    ),
    "no tab": (tiny_imagenet, with_text(ANNOTATIONS_FILE, "val_0.JPEG"), "line 1: '' is not in wnids.txt"),
    "no lines": (tiny_imagenet, with_text(ANNOTATIONS_FILE, ""), "val_annotations.txt lists no images"),
    "no train": (imagenet, without("train"), "'imagenet': no folder train in .* and .*/imagenet; set trial.data_root"),
    "no test": (imagenet, without("val"), "val is missing: it must hold one folder"),
    "a class of train": (imagenet, without("val/n02"), "train and val must have the same folders, .*: n02"),
    "an empty class": (imagenet, emptied("val/n02"), "val/n02 has no images, or is missing"),
}


@pytest.mark.parametrize(("reader", "spoil", "message"), SPOILT_FOLDERS.values(), ids=SPOILT_FOLDERS)
def test_spoilt_folders_are_refused(tmp_path, reader, spoil, message):
    (write_tiny_imagenet if reader is tiny_imagenet else write_imagenet)(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        reader(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "another format", "cut off"])
def test_a_damaged_image_is_refused(tmp_path, content):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "val" / "images" / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    data = tiny_imagenet(str(tmp_path))
    assert data.test[0][1] == 1
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable image"):
        data.test[1]
