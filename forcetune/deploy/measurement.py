"""The cost of exported files: latency in turn on one thread, peak memory of a fresh process, and size."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forcetune.deploy.inputs import InputFormat
from forcetune.deploy.runtimes import RUNTIMES, limit_threads
from forcetune.locks import machine_lock

BATCH_SIZES = (1, 32)
WARM_UP_RUNS, TIMED_RUNS, RUNS_IN_TURN = 20, 200, 20
COMPARED_RUNS = 100  # of the two files whose ratio chooses a width
PROBE_LIMIT_S = 300.0
LATENCY_LOCK = "forcetune-latency.lock"


@dataclass(frozen=True)
class Latency:
    """The time of one run at one batch size, in ms.

    Attributes:
        p50_ms: The median.
        p95_ms: The 95th percentile.
    """

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class LatencyRatio:
    """The latency of a file beside that of another one, measured in turn.

    Attributes:
        ratio: The median of the ratios of the turns.
        spread: The interquartile range of the ratios of the turns.
        file_ms: The median latency of the file, in ms.
        reference_ms: The median latency of the other one, in ms.
    """

    ratio: float
    spread: float
    file_ms: float
    reference_ms: float


@dataclass(frozen=True)
class FileCost:
    """The cost of an exported file.

    Attributes:
        latencies: The latency by batch size.
        peak_bytes: The peak memory of a fresh process that loads the file and runs it at batch 1.
        file_bytes: The size of the file.
        compressed_bytes: The size of the file compressed by `compression`.
        compression: `zstd`, or `zlib` where the package zstandard is missing.
    """

    latencies: Mapping[int, Latency]
    peak_bytes: int
    file_bytes: int
    compressed_bytes: int
    compression: str


def measure_files(paths: Mapping[str, Path], input_format: InputFormat) -> dict[str, FileCost]:
    """Measure several files of one format in turn, under a lock that all measurements of this machine share.

    Args:
        paths: The files by name.
        input_format: The format of their samples.

    Returns:
        The cost of each file by name.
    """
    with machine_lock(Path(tempfile.gettempdir()) / LATENCY_LOCK), limit_threads():
        latencies = {size: measure_latencies(paths, input_format, size) for size in BATCH_SIZES}
        peaks = {name: _measure_peak(path, input_format) for name, path in paths.items()}
    costs = {}
    for name, path in paths.items():
        content = path.read_bytes()
        by_size = {size: latencies[size][name] for size in BATCH_SIZES}
        costs[name] = FileCost(by_size, peaks[name], len(content), *compress(content))
    return costs


def measure_latencies(paths: Mapping[str, Path], input_format: InputFormat, batch_size: int) -> dict[str, Latency]:
    """Measure the latency of several files in turn, twenty runs each, after twenty runs of each that do not count.

    Args:
        paths: The files by name.
        input_format: The format of their samples.
        batch_size: The number of samples in a run.
    """
    seconds = _time_in_turn(paths, input_format, batch_size, TIMED_RUNS)
    return {name: Latency(*(np.percentile(times, (50, 95)) * 1000).tolist()) for name, times in seconds.items()}


def _time_in_turn(
    paths: Mapping[str, Path], input_format: InputFormat, batch_size: int, runs: int
) -> dict[str, np.ndarray]:
    """Return the seconds of each run that counts, of shape (turns, runs in a turn), by the name of the file.

    Each file gets several runs in a row, so that its weights are in the caches as they are where it runs alone.
    """
    rng = np.random.default_rng(0)
    samples = input_format.make_example(batch_size)
    values = rng.integers(0, 256, samples.shape) if input_format.dtype == "uint8" else rng.random(samples.shape)
    samples.numpy()[...] = values
    functions = {name: RUNTIMES[path.suffix](path).prepare(samples) for name, path in paths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(-WARM_UP_RUNS, runs, RUNS_IN_TURN):
        for name, function in functions.items():
            for _ in range(RUNS_IN_TURN):
                started = time.perf_counter()
                function()
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - started)
    return {name: np.reshape(times, (-1, RUNS_IN_TURN)) for name, times in seconds.items()}


def compress(content: bytes) -> tuple[int, str]:
    """Return the compressed size of a content, and the name of the compression: `zstd`, or else `zlib`."""
    try:
        import zstandard
    except ImportError:
        return len(zlib.compress(content, 9)), "zlib"
    return len(zstandard.ZstdCompressor(level=19).compress(content)), "zstd"


def describe_machine() -> str:
    """Return the processor of this machine in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _measure_peak(path: Path, input_format: InputFormat) -> int:
    """Return the peak memory of a fresh process that runs a file at batch 1; the process imports no other package."""
    shape = map(str, (1, *input_format.sample_shape))
    probe = Path(__file__).with_name("probe.py")
    # -P: the files beside the program are no modules for it
    command = [sys.executable, "-P", str(probe), str(path), input_format.dtype, *shape]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False)
    if completed.returncode != 0:
        raise RuntimeError(f"{probe.name} ended with {completed.returncode}: {completed.stderr[-2000:]}")
    return int(completed.stdout.split()[-1])


def measure_latency_ratio(
    path: Path, reference: Path, input_format: InputFormat, runs: int = COMPARED_RUNS
) -> LatencyRatio:
    """Measure the latency of a file beside that of another one at batch 1, in turn, under the lock of this machine.

    Args:
        path: The file.
        reference: The other file.
        input_format: The format of their samples.
        runs: The number of runs of each file that count; a multiple of RUNS_IN_TURN.
    """
    with machine_lock(Path(tempfile.gettempdir()) / LATENCY_LOCK), limit_threads():
        seconds = _time_in_turn({"file": path, "reference": reference}, input_format, 1, runs)
    medians = {name: np.median(times, axis=1) for name, times in seconds.items()}
    ratios = medians["file"] / medians["reference"]
    low, ratio, high = np.percentile(ratios, (25, 50, 75)).tolist()
    file_ms, reference_ms = (float(np.median(times) * 1000) for times in seconds.values())
    return LatencyRatio(ratio, high - low, file_ms, reference_ms)
