"""A program that runs an exported file once in a fresh process, and prints the peak of its memory in bytes.

    python -P probe.py FILE DTYPE SIZE...

DTYPE and the sizes are those of a batch. It imports the runtime of the file and nothing else.
"""

import resource
import sys
from pathlib import Path


def main(path: str, dtype: str, *sizes: str) -> None:
    """Run the file on a batch of zeros, and print the peak."""
    shape = [int(size) for size in sizes]
    if path.endswith(".onnx"):
        _run_onnx(path, dtype, shape)
    else:
        _run_torch(path, dtype, shape)
    print(read_peak_bytes())


def read_peak_bytes() -> int:
    """Return the peak of this process's memory.

    Linux's ru_maxrss includes the memory of the process that started this one, so /proc is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _run_onnx(path: str, dtype: str, shape: list[int]) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: np.zeros(shape, dtype)})


def _run_torch(path: str, dtype: str, shape: list[int]) -> None:
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        torch.export.load(path).module()(torch.zeros(shape, dtype=getattr(torch, dtype)))


if __name__ == "__main__":
    main(*sys.argv[1:])
