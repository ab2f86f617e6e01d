"""The measurement of files: its lock, the compression and the memory of a fresh process."""

import sys
import threading
import zlib

from forcetune.deploy import probe
from forcetune.deploy.measurement import compress, describe_machine
from forcetune.locks import machine_lock


def test_a_size_is_compressed_by_zstd_or_says_what_else(monkeypatch):
    content = b"forcetune" * 1000
    size, name = compress(content)
    assert name == "zstd"
    assert size < len(content)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert compress(content) == (len(zlib.compress(content, 9)), "zlib")


def test_two_measurements_wait_for_each_other(tmp_path):
    path, order = tmp_path / "latency.lock", []

    def measure():
        with machine_lock(path):
            order.append("second")

    other = threading.Thread(target=measure)
    with machine_lock(path):
        other.start()
        other.join(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_the_peak_is_that_of_this_process():
    before = probe.read_peak_bytes()
    block = bytearray(300_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert probe.read_peak_bytes() >= min(before, 300_000_000)
    assert describe_machine()
