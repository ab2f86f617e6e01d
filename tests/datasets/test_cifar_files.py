"""The reader of CIFAR's pickles, and the damaged and the dangerous files that it refuses."""

import pickle
import re
import struct
from typing import ClassVar

import numpy as np
import pytest

from forcetune.data import checks, load
from forcetune.data.readers import cifar10
from forcetune.errors import InputError

pytestmark = pytest.mark.usefixtures("empty_load_cache")


class Python2Pickler(pickle._Pickler):
    """A pickler that writes text and bytes alike as 8-bit strings, as Python 2 did when the CIFAR files were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value, name=None):
        module = "numpy.core.multiarray" if name == "_reconstruct" else value.__module__
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global


def write_python2_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(value)


def cifar_pixels(count, first):
    """Return images, uint8 (N, 3, 32, 32), whose bytes vary everywhere; the first byte is `first`."""
    return ((np.arange(count * 3072) * 7 + first) % 251).astype(np.uint8).reshape(count, 3, 32, 32)


def cifar_batch(count, first, labels, name=b"labels"):
    return {
        b"batch_label": b"training batch 1 of 5",
        name: labels,
        b"data": cifar_pixels(count, first).reshape(count, 3072),
        b"filenames": [b"an_image.png"] * count,
    }


def write_cifar10(folder):
    for number in range(1, 6):
        write_python2_pickle(folder / f"data_batch_{number}", cifar_batch(2, number, [number, 9]))
    write_python2_pickle(folder / "test_batch", cifar_batch(3, 100, [0, 1, 2]))


def write_cifar100(folder):
    for split, labels in (("train", [99, 0, 42]), ("test", [7, 8])):
        coarse = {b"coarse_labels": [1] * len(labels)}
        write_python2_pickle(folder / split, cifar_batch(len(labels), 5, labels, b"fine_labels") | coarse)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"], ids=["flat", "torchvision"])
def test_cifar10(tmp_path, inside):
    write_cifar10(tmp_path / inside)
    data = cifar10(str(tmp_path))
    assert data.train.targets.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert np.array_equal(data.train.inputs, np.concatenate([cifar_pixels(2, number) for number in range(1, 6)]))
    assert data.test.targets.tolist() == [0, 1, 2]
    assert np.array_equal(data.test.inputs, cifar_pixels(3, 100))
    checks.check(data)


def test_cifar100(tmp_path, monkeypatch):
    write_cifar100(tmp_path / "data" / "cifar-100-python")
    monkeypatch.chdir(tmp_path)
    data = load("cifar100")
    assert data.train.targets.tolist() == [99, 0, 42]
    assert np.array_equal(data.test.inputs, cifar_pixels(2, 5))
    checks.check(data)


def test_cifar_stored_column_by_column(tmp_path):
    write_cifar10(tmp_path)
    batch = cifar_batch(3, 100, [0, 1, 2])
    write_python2_pickle(tmp_path / "test_batch", batch | {b"data": np.asfortranarray(batch[b"data"])})
    assert np.array_equal(cifar10(str(tmp_path)).test.inputs, cifar_pixels(3, 100))


def test_missing_cifar_files_are_refused(tmp_path):
    folders = f"{re.escape(str(tmp_path))} and {re.escape(str(tmp_path))}/cifar-10-batches-py"
    with pytest.raises(InputError, match=f"'cifar10': no data_batch_1 in {folders}; set trial.data_root"):
        cifar10(str(tmp_path))
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/data_batch_4 is missing"):
        cifar10(str(tmp_path))


class Command:
    """An object that runs a command where it is unpickled without care."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self):
        strings = b"".join(pickle.SHORT_BINSTRING + bytes([len(a)]) + a.encode() for a in self.arguments)
        called = pickle.GLOBAL + f"{self.module}\n{self.name}\n".encode()
        return pickle.PROTO + b"\2" + called + pickle.MARK + strings + pickle.TUPLE + pickle.REDUCE + pickle.STOP


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("os", "system", "touch {}"),
        ("posix", "system", "touch {}"),
        ("__builtin__", "eval", "open('{}', 'w')"),
        ("numpy", "loadtxt", "{}"),
        ("numpy.core.multiarray", "fromfile", "{}"),
    ],
)
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, module, name, argument):
    write_cifar10(tmp_path)
    written = tmp_path / "written"
    content = Command(module, name, argument.format(written)).pickled()
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .* loads .*{name}, which CIFAR"):
        cifar10(str(tmp_path))
    assert not written.exists()
    if argument.startswith(("touch", "open")):  # the command would have run
        file = pickle.loads(content)
        if name == "eval":
            file.close()
        assert written.exists()


def pickle_test_batch(tmp_path):
    write_python2_pickle(tmp_path / "whole", cifar_batch(3, 0, [0, 1, 2]))
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "EOFError"),
        (lambda content: content[:5000], "UnpicklingError: pickle data was truncated"),
        (lambda content: content[:-1], "EOFError"),
        (lambda content: b"<html>" + content, "UnpicklingError: invalid load key"),
        (lambda content: content.replace(b"U\2u1", b"U\2f8"), "its array is b'f8'; allowed: b'u1'"),
        (lambda content: content.replace(b"U\6labels", b"U\6babels"), "KeyError: b'labels'"),
        (lambda content: content.replace(b"U\4data", b"U\4date"), "KeyError: b'data'"),
        (lambda content: pickle.dumps([1, 2], protocol=2), "TypeError"),
    ],
    ids=["empty", "cut off", "without its end", "another format", "floats", "no labels", "no data", "no dict"],
)
def test_a_damaged_cifar_file_is_refused(tmp_path, damage, message):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(damage(pickle_test_batch(tmp_path)))
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/test_batch is not a readable CIFAR.*{message}"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (cifar_batch(3, 0, [0, 1]), r"its images are uint8 \(3, 3, 32, 32\), .*2 labels"),
        (cifar_batch(3, 0, [0, 1, 10]), "its labels are 0 to 10; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, -1]), "its labels are -1 to 1; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, 2]) | {b"data": np.zeros((3, 784), np.uint8)}, "cannot reshape"),
        (cifar_batch(0, 0, []), "it has no images"),
    ],
)
def test_cifar_of_another_kind_is_refused(tmp_path, batch, message):
    write_cifar10(tmp_path)
    write_python2_pickle(tmp_path / "test_batch", batch)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .*{message}"):
        cifar10(str(tmp_path))
