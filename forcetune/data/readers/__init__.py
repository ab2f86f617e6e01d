"""Readers of data sets, from what libraries ship or from local folders; nothing is downloaded.

A reader is a function of `root`, the folder of the files, that returns the data set. It raises InputError where a file
or a folder is missing or not readable.
"""

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
