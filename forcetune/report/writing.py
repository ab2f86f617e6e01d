"""The page of a study, written to a file and logged among the artifacts of its parent run."""

from __future__ import annotations

from pathlib import Path

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.report.evidence import gather
from forcetune.report.page import render_page

ARTIFACT = "report.html"


def write(study: str, out: Path | None = None) -> Path:
    """Write the page of a study to a file, and log it with the study's parent run.

    The study may still be running: the page says how far it is.

    Args:
        study: The name of the study.
        out: The file; None takes `report-STUDY.html` in the current folder.

    Returns:
        The path of the file.

    Raises:
        InputError: There is no such study, none of its trials has ended, or the file cannot be written.
    """
    evidence = gather(study)
    html = render_page(evidence)
    path = out or Path(f"report-{study.replace('/', '-')}.html")
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {path} cannot be written: {error.strerror}") from error
    tracking.log_page(evidence.results.parent, ARTIFACT, html)
    return path
