"""Readers of data sets, from what libraries ship or from local folders; nothing is downloaded."""

from forcetune.data.readers.arrays import cifar10, cifar100, svhn
from forcetune.data.readers.folders import imagenet, tiny_imagenet
from forcetune.data.readers.idx import fashion_mnist, mnist
from forcetune.data.readers.small import digits, synthetic, textures

__all__ = [
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "imagenet",
    "mnist",
    "svhn",
    "synthetic",
    "textures",
    "tiny_imagenet",
]
