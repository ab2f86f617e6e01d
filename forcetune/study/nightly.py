"""The file of `forcetune nightly`: the studies that are compared with random pruning every night, and the budget."""

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from forcetune.errors import InputError
from forcetune.study.domains import explain_errors
from forcetune.study.reading import read_yaml
from forcetune.study.sections import Section

SPARSITY_BAND_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


class Nightly(Section):
    """The content of a nightly.yaml."""

    studies: list[str] = Field(min_length=1, description="names of studies in MLflow")
    top: int = Field(1, ge=1, description="champions per band: the trials with the highest validation accuracy")
    bands: list[float] = Field(
        list(SPARSITY_BAND_EDGES), min_length=2, description="rising edges of the sparsity bands"
    )
    seeds: int = Field(2, ge=1, description="fresh seeds per night for each undecided comparison")
    sentinels: int = Field(
        2, ge=0, description="seeds of the sentinel pair, which runs again every night (0: no sentinels)"
    )
    budget: float | None = Field(None, gt=0, description="device hours per night (no limit)")
    margin: float = Field(
        0.5, gt=0, description="points of test accuracy within which two networks count as equally good"
    )
    collapse_margin: float = Field(
        0.1, gt=0, lt=1, description="difference of two rates of collapses within which they count as equal"
    )
    since: datetime.date | None = Field(
        None, description="night from which the sentinels' history starts again, after an intended change"
    )
    on_alarm: list[str] = Field(
        default=[], description="program and its arguments, started on an alarm; it reads the alarms on standard input"
    )


def load_nightly(path: str | Path) -> Nightly:
    """Read and validate a nightly.yaml.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        InputError: The file cannot be read, or its content is not valid. The message begins with the path.
    """
    written = read_yaml(path)
    if not isinstance(written, dict):
        raise InputError(f"{path} is not a mapping; allowed keys: {', '.join(Nightly.model_fields)}")
    try:
        nightly = Nightly.model_validate(written)
    except ValidationError as error:
        raise InputError(f"{path}: {explain_errors(error, Nightly)}") from None
    check_bands(nightly.bands, f"{path}: bands")
    if repeated := [name for name, count in Counter(nightly.studies).items() if count > 1]:
        raise InputError(f"{path}: studies: {', '.join(repeated)} is listed more than once; allowed: each study once")
    return nightly


def check_bands(edges: Sequence[float], position: str) -> None:
    """Check that the edges of the bands of sparsity rise, and lie between 0 and 1.

    Args:
        edges: The edges, as fractions.
        position: Where they are written, for the error message.

    Raises:
        InputError: The edges are not valid.
    """
    if len(edges) < 2 or list(edges) != sorted(set(edges)) or not all(0 <= edge <= 1 for edge in edges):
        shown = ", ".join(f"{edge:g}" for edge in edges)
        raise InputError(
            f"{position}: {shown}; allowed: at least two rising edges of sparsity from 0 to 1, such as 0.9,0.98,1"
        )
