"""The reader of SVHN's .mat files, and the damaged files that it refuses."""

import re

import numpy as np
import pytest
from scipy.io import savemat

from forcetune.data import checks, load
from forcetune.data.readers import svhn
from forcetune.errors import InputError

pytestmark = pytest.mark.usefixtures("empty_load_cache")

# The axes are rows, columns, channels and images, as in the files; label 10 is the digit 0
SVHN_ARRAYS = {
    "train": (np.arange(32 * 32 * 3 * 4).reshape(32, 32, 3, 4) % 253, [[10], [1], [9], [5]]),
    "test": (np.arange(32 * 32 * 3 * 2).reshape(32, 32, 3, 2) % 249, [[2], [10]]),
}


def write_svhn(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (pixels, labels) in SVHN_ARRAYS.items():
        variables = {"X": pixels.astype(np.uint8), "y": np.array(labels, dtype=np.uint8)}
        variables |= changes if split == "test" else {}
        savemat(folder / f"{split}_32x32.mat", variables, do_compression=True)


@pytest.mark.parametrize("rooted", [True, False])
def test_svhn(tmp_path, monkeypatch, rooted):
    write_svhn(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    data = load("svhn", "data" if rooted else None)
    assert data.train.targets.tolist() == [0, 1, 9, 5]
    assert data.test.targets.tolist() == [2, 0]
    for split, images in (("train", data.train), ("test", data.test)):
        for number in range(len(images)):
            assert np.array_equal(images.inputs[number], SVHN_ARRAYS[split][0][:, :, :, number].transpose(2, 0, 1))
    assert not data.flip, "a mirrored digit is no digit"
    checks.check(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([[2], [11]], dtype=np.uint8), "X": np.zeros((32, 32, 3, 3), np.uint8)}, "with 2 labels"),
        ({"X": np.zeros((32, 32, 3, 2))}, "its images are float64"),
        ({"X": np.zeros((32, 32), np.uint8)}, "ValueError"),
    ],
)
def test_svhn_of_another_kind_is_refused(tmp_path, changes, message):
    write_svhn(tmp_path, **changes)
    with pytest.raises(InputError, match=f"test_32x32.mat is not a readable .mat file: .*{message}"):
        svhn(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + b"x" * 200, None])
def test_damaged_svhn_is_refused(tmp_path, content):
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable .mat file"):
        svhn(str(tmp_path))


def test_missing_svhn_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"'svhn': no train_32x32.mat in {re.escape(str(tmp_path))}; set trial"):
        svhn(str(tmp_path))
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(InputError, match="test_32x32.mat is missing"):
        svhn(str(tmp_path))
