"""The table of a comparison: a row for each method and a column for each sparsity, for people and for papers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forcetune.analysis.paired import student_half_width
from forcetune.errors import InputError
from forcetune.formats import format_percent
from forcetune.report.tables import Table
from forcetune.study import Study
from forcetune.tracking import REACHED_TOLERANCE

FEW_SEEDS = 3  # up to which an interval says little: Student's factor is 12.7 for two, 4.3 for three, 2.8 for five
LEGEND = "†n: n seeds collapsed; ‡n: n seeds failed; both count at chance accuracy."
REACHED_LEGEND = "In brackets: the sparsity that was reached, where it is not that of the column."


def tabulate(compared: pd.DataFrame, caption: str = "") -> Table:
    """Return the table that people read: a row for each method, a column for each sparsity, in percent.

    Args:
        compared: The comparison, as `analysis.compare` returns it.
        caption: The caption of the table.

    Returns:
        The table. A cell also has the sparsity that was reached where it is another one than was asked for, as with
        whole channels.
    """
    densities = sorted(compared["density"].unique(), reverse=True)
    cells = {(row.method, row.density): _format_cell(row) for row in compared.itertuples()}
    header = ["method", *(f"{format_percent(1 - density)[:-1]} %" for density in densities)]
    methods = compared["method"].drop_duplicates()
    rows = [[method, *(cells.get((method, density), "") for density in densities)] for method in methods]
    has_reached = any("(" in cell for row in rows for cell in row[1:])
    legend = f"{LEGEND} {REACHED_LEGEND}" if has_reached else LEGEND
    return Table(header, rows, {"method"}, caption, legend, code_columns={"method"})


def make_caption(study: Study, seeds: int) -> str:
    """Return the caption of the table, one sentence.

    Args:
        study: The study of the comparison.
        seeds: The number of seeds.
    """
    model, dataset = (study.space[name].values[0] for name in ("model", "dataset"))
    has_equal_compute = "equal_compute" in study.space and study.space["equal_compute"].values[0]
    compute = ", with as many operations of training for every method" if has_equal_compute else ""
    return (
        f"Validation accuracy of {model} on {dataset} by sparsity, in percent: "
        f"mean and 95 % interval over {seeds} seeds{compute}."
    )


def warn_of_few_seeds(seeds: int) -> str | None:
    """Return a warning about intervals over few seeds; None where the seeds are enough, or only one.

    Args:
        seeds: The number of seeds.
    """
    if not 1 < seeds <= FEW_SEEDS:
        return None
    factor = student_half_width(1 / np.sqrt(seeds), seeds - 1)
    return (
        f"An interval over {seeds} seeds is {factor:.1f} standard deviations to each side, too wide to compare "
        "methods; with five seeds it is 1.2, with ten 0.7."
    )


def export(compared: pd.DataFrame, table: Table, stem: Path) -> list[Path]:
    """Write the comparison as .csv (all numbers), .md and .tex (as printed).

    Args:
        compared: The comparison, as `analysis.compare` returns it.
        table: The table of the comparison, as `tabulate` returns it.
        stem: The path of the files without their extensions.

    Returns:
        The paths of the files.

    Raises:
        InputError: A file cannot be written.
    """
    texts = {".csv": compared.to_csv(index=False), ".md": table.to_markdown(), ".tex": table.to_latex()}
    paths = [stem.with_name(stem.name + extension) for extension in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        try:
            path.write_text(text, "utf-8")
        except OSError as error:
            raise InputError(f"--out: {path} cannot be written: {error.strerror}; all trials are kept") from error
    return paths


def _format_cell(row: Any) -> str:
    interval = "" if np.isnan(row.half_width) else f" ± {row.half_width * 100:.1f}"
    marks = (f"†{row.collapsed}" if row.collapsed else "") + (f"‡{row.failed}" if row.failed else "")
    return " ".join(filter(None, [f"{row.mean * 100:.1f}{interval}", marks, _format_reached(row)]))


def _format_reached(row: Any) -> str:
    """Return the sparsity that trials reached, in brackets; nothing where it is what was asked for."""
    reached = getattr(row, "reached", np.nan)
    differs = abs(reached - row.density) > REACHED_TOLERANCE * row.density
    return f"({format_percent(1 - reached)[:-1]} %)" if differs else ""
