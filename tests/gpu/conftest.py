"""Fixtures of the tests on a device, and a final line on skipped tests, which only a GPU can run."""

import pytest
import torch

NO_GPU = "needs a GPU, and torch sees none here"


@pytest.fixture(scope="session")
def device(request):
    """Return the device of `--device`; without that option the GPU where torch sees one, else the CPU."""
    name = request.config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device=cuda: torch sees no GPU here; allowed: --device=cpu", returncode=2)
    torch.backends.cudnn.deterministic = True  # as in a worker
    return torch.device(name)


@pytest.fixture
def gpu(device):
    """Return the device for tests that only a GPU can run."""
    if device.type != "cuda":
        pytest.skip(NO_GPU)
    return device


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_GPU in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"tests/gpu: {len(skipped)} tests were skipped: each {NO_GPU}")
