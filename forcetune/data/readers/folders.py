"""Readers of image files in folders: ImageNet and Tiny ImageNet, streamed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forcetune.data.readers.places import find_folder
from forcetune.data.streamed import Streamed, Transform
from forcetune.errors import InputError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
TINY_IMAGENET_MEAN, TINY_IMAGENET_STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Sample = tuple[str, int]  # the path of a file, and its class


class ImageFiles:
    """A map-style dataset of (PIL image in RGB, class) from files below a folder; damaged files raise InputError."""

    def __init__(self, folder: Path, samples: Sequence[Sample]) -> None:
        self._folder = folder
        # One array instead of a million strings: workers would copy each page in which they count a reference
        self._names = np.array([os.fsencode(name) for name, _ in samples])
        self.targets = torch.tensor([target for _, target in samples])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.datasets.folder import pil_loader

        path = self._folder / os.fsdecode(self._names[index])
        try:
            return pil_loader(path), int(self.targets[index])
        except Exception as error:  # a damaged image may raise anything
            raise InputError(f"{path} is not a readable image: {error}") from error


def tiny_imagenet(root: str | None) -> Streamed:
    """Read Tiny ImageNet: 100 000 training and 10 000 test photographs of 64x64 in 200 classes.

    Its val is the test split.

    Args:
        root: The unpacked folder tiny-imagenet-200, or the folder that holds it; None for ./data.
    """
    from torchvision.transforms import v2

    folder = find_folder("tiny_imagenet", root, "tiny-imagenet-200", ("wnids.txt",), archive="tiny-imagenet-200.zip")
    classes = sorted(_read_text(folder / "wnids.txt").split())
    final_transforms = _to_floats(TINY_IMAGENET_MEAN, TINY_IMAGENET_STD)
    return Streamed(
        train=ImageFiles(folder, _list_samples(folder, [f"train/{wnid}/images" for wnid in classes])),
        test=ImageFiles(folder, _read_annotations(folder, classes)),
        train_transform=v2.Compose([v2.RandomCrop(64, padding=4), v2.RandomHorizontalFlip(), *final_transforms]),
        eval_transform=v2.Compose(final_transforms),
        classes=len(classes),
        input_shape=(3, 64, 64),
        class_names=tuple(classes),
        mean=TINY_IMAGENET_MEAN,
        std=TINY_IMAGENET_STD,
    )


def imagenet(root: str | None) -> Streamed:
    """Read ImageNet's 1000 classes [1409.0575], or some of them, at 224x224.

    Its val is the test split.

    Args:
        root: The folder with the image files in train/<wnid>/ and val/<wnid>/, or with a folder imagenet that holds
            them; None for ./data/imagenet.
    """
    from torchvision.transforms import v2

    folder = find_folder("imagenet", root, "imagenet", ("train/",), "folder train", archive="ILSVRC2012_img_train.tar")
    classes = _folders_in(folder / "train")
    if (val_classes := _folders_in(folder / "val")) != classes:
        unmatched = ", ".join(sorted({*classes} ^ {*val_classes})[:5])
        raise InputError(
            f"{folder}: train and val must have the same folders, one for each class; not in both: {unmatched}"
        )
    final_transforms = _to_floats(IMAGENET_MEAN, IMAGENET_STD)
    return Streamed(
        train=ImageFiles(folder, _list_samples(folder, [f"train/{wnid}" for wnid in classes])),
        test=ImageFiles(folder, _list_samples(folder, [f"val/{wnid}" for wnid in classes])),
        train_transform=v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *final_transforms]),
        eval_transform=v2.Compose([v2.Resize(256), v2.CenterCrop(224), *final_transforms]),
        classes=len(classes),
        input_shape=(3, 224, 224),
        validation=0.04,
        class_names=tuple(classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _to_floats(mean: tuple[float, ...], std: tuple[float, ...]) -> list[Transform]:
    from torchvision.transforms import v2

    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.ToPureTensor()]


def _folders_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: it must hold one folder of images for each class")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{folder} is empty: it must hold one folder of images for each class")
    return names


def _list_samples(folder: Path, subfolders: list[str]) -> list[Sample]:
    """Return the image files in subfolders; each subfolder has the files of one class."""
    return [(name, label) for label, subfolder in enumerate(subfolders) for name in _images_in(folder, subfolder)]


def _images_in(folder: Path, subfolder: str) -> list[str]:
    """Return the paths, from `folder`, of the image files in its `subfolder`."""
    # torchvision's make_dataset reads hidden files too, and holds a million paths as strings
    names = os.listdir(folder / subfolder) if (folder / subfolder).is_dir() else []
    images = sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))
    if not images:
        raise InputError(f"{folder / subfolder} has no images, or is missing")
    return [f"{subfolder}/{name}" for name in images]


def _read_annotations(folder: Path, classes: list[str]) -> list[Sample]:
    """Read Tiny ImageNet's val; each line of its annotations begins with a file, a tab, a class and a tab."""
    annotations = folder / "val/val_annotations.txt"
    images = {*_images_in(folder, "val/images")}
    labels = {wnid: label for label, wnid in enumerate(classes)}
    samples = []
    for number, line in enumerate(_read_text(annotations).splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in labels:
            raise InputError(f"{annotations}, line {number}: {wnid!r} is not in wnids.txt")
        if f"val/images/{name}" not in images:
            raise InputError(f"{annotations}, line {number}: {name!r} is not in {folder / 'val/images'}")
        samples.append((f"val/images/{name}", labels[wnid]))
    if not samples:
        raise InputError(f"{annotations} lists no images")
    return samples


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable: {error}") from error
