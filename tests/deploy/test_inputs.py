"""The input of an exported network: its shape, its type, and the samples of a data set in that form."""

import dataclasses

import pytest
import torch

from forcetune import data
from forcetune.deploy.inputs import InputFormat, PixelNetwork, choose_input_format, iterate_samples
from forcetune.errors import InputError


class Pairs(torch.utils.data.Dataset):
    """Four samples whose class is their number modulo 2."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, index % 2


def make_streamed():
    def transform(index):
        return torch.full((3, 2, 2), float(index))

    return data.Streamed(Pairs(), Pairs(), transform, transform, classes=2, input_shape=(3, 2, 2), workers=0)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_normalization_in_the_graph_is_that_of_the_batches(layout, dtype):
    dataset = data.load("textures")
    few = dataclasses.replace(dataset, test=dataset.test.take(torch.arange(9)))
    input_format = choose_input_format(few, dtype, layout)
    network = PixelNetwork(torch.nn.Identity(), input_format)
    batches = list(iterate_samples(few, few.test, input_format, 4))
    assert [len(batch.targets) for batch in batches] == [4, 4, 1]
    for batch in batches:
        assert batch.inputs.shape[1:] == input_format.sample_shape
        assert torch.allclose(network(batch.inputs), batch.normalized, atol=1e-5)


def test_pixels_are_uint8_by_default():
    assert choose_input_format(data.load("synthetic"), None, "nchw").dtype == "uint8"


def test_a_transform_of_the_users_own_is_not_part_of_the_graph():
    dataset = make_streamed()
    input_format = choose_input_format(dataset, None, "nchw")
    assert (input_format.dtype, input_format.mean) == ("float32", None)
    assert "normalized values" in input_format.describe()
    batch = next(iterate_samples(dataset, dataset.split(0)[0], input_format, 2))
    assert torch.equal(batch.inputs, batch.normalized)
    assert torch.equal(PixelNetwork(torch.nn.Identity(), input_format)(batch.inputs), batch.inputs)
    with pytest.raises(InputError, match="--input uint8: .*eval_transform.*allowed: float32"):
        choose_input_format(dataset, "uint8", "nchw")


def test_a_transform_that_ends_in_a_normalization_is_undone_to_pixels():
    dataset = dataclasses.replace(
        make_streamed(),
        eval_transform=lambda index: (torch.full((3, 2, 2), (251 + index) / 255) - 0.4) / 0.3,
        mean=(0.4,) * 3,
        std=(0.3,) * 3,
    )
    input_format = choose_input_format(dataset, None, "nhwc")
    assert (input_format.dtype, input_format.sample_shape) == ("uint8", (2, 2, 3))
    split = dataset.split(0)[0]
    batch = next(iterate_samples(dataset, split, input_format, 3))
    assert batch.inputs[:, 0, 0, 0].tolist() == [251 + index for index in split.indices.tolist()]
    network = PixelNetwork(torch.nn.Identity(), input_format)
    assert torch.allclose(network(batch.inputs), batch.normalized, atol=1e-6)


def test_rows_have_no_layout():
    rows = InputFormat((5,), "float32", None)
    assert rows.describe() == "float32 (batch, 5): normalized values, as the batches of the data set have them"
    assert rows.make_example(3).shape == (3, 5)
