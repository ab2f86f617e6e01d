"""A fixture of the tests that read files."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a study file and returns its path."""

    def to_file(content):
        path = tmp_path / "study.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file
