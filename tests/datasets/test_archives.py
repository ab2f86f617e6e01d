"""Archives of data sets that nobody has unpacked: the readers name them."""

import re

import pytest

from forcetune.data.readers import cifar10, cifar100, imagenet, tiny_imagenet
from forcetune.errors import InputError


@pytest.mark.parametrize(
    ("reader", "archive"),
    [
        (cifar10, "cifar-10-python.tar.gz"),
        (cifar100, "cifar-100-python.tar.gz"),
        (tiny_imagenet, "tiny-imagenet-200.zip"),
        (imagenet, "ILSVRC2012_img_train.tar"),
    ],
)
def test_an_archive_that_is_not_unpacked_is_refused(tmp_path, reader, archive):
    (tmp_path / archive).touch()
    with pytest.raises(InputError, match=f"unpack {re.escape(str(tmp_path / archive))}, or set trial.data_root"):
        reader(str(tmp_path))
