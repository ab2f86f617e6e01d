"""The fixture of the tests that read study files."""

import pytest


@pytest.fixture
def write_study_file(tmp_path):
    """Return a function that writes a study file and returns its path."""

    def write(content):
        path = tmp_path / "study.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
