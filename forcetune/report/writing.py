"""The page of a study, in a file and among the artifacts of its parent run."""

from __future__ import annotations

from pathlib import Path

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.report.evidence import gather
from forcetune.report.page import page

ARTIFACT = "report.html"


def write(study: str, out: Path | None = None) -> Path:
    """Write the page to `out`, or `report-STUDY.html` of the current folder, and log it with the parent run.

    The study may still be running: the page says how far it is. Raises InputError where there is no such study, none
    of its trials has ended, or the file cannot be written.
    """
    evidence = gather(study)
    told = page(evidence)
    path = out or Path(f"report-{study.replace('/', '-')}.html")
    try:
        path.write_text(told, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {path} cannot be written: {error}") from error
    tracking.log_page(evidence.trials.attrs["parent"], ARTIFACT, told)
    return path
