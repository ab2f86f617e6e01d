"""The table of a comparison: a row for each method and a column for each sparsity, for people and for papers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forcetune.analysis.paired import student_half_width
from forcetune.study import Study

FEW_SEEDS = 3  # up to which an interval says little: Student's factor is 12.7 for two, 4.3 for three, 2.8 for five
LEGEND = "†n: n seeds collapsed; ‡n: n seeds failed; both count at chance accuracy."


def tabulate(compared: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table that people read: a row a method, a column a sparsity, in percent.

    Args:
        compared: The comparison, as `compare` gives it.
    """
    densities = sorted(compared["density"].unique(), reverse=True)
    cells = {(row.method, row.density): _format_cell(row) for row in compared.itertuples()}
    header = ["method", *(f"{1 - density:.4%}".rstrip("0%").rstrip(".") + " %" for density in densities)]
    methods = compared["method"].drop_duplicates()
    return header, [[method, *(cells.get((method, density), "") for density in densities)] for method in methods]


def make_caption(study: Study, seeds: int) -> str:
    """Return the caption of the table, one sentence.

    Args:
        study: The study of the comparison.
        seeds: The number of seeds.
    """
    model, dataset = (study.space[name].values[0] for name in ("model", "dataset"))
    return (
        f"Validation accuracy of {model} on {dataset} by sparsity, in percent: "
        f"mean and 95 % interval over {seeds} seeds."
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


def export(compared: pd.DataFrame, caption: str, stem: Path) -> list[Path]:
    """Write the comparison as .csv (all numbers), .md and .tex (as printed).

    Args:
        compared: The comparison, as `compare` gives it.
        caption: The caption of the table.
        stem: The path of the files without their extensions.

    Returns:
        The paths of the files.
    """
    texts = {
        ".csv": compared.to_csv(index=False),
        ".md": to_markdown(compared, caption),
        ".tex": to_latex(compared, caption),
    }
    paths = [stem.with_name(stem.name + extension) for extension in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths


def _format_cell(row: Any) -> str:
    interval = "" if np.isnan(row.half_width) else f" ± {row.half_width * 100:.1f}"
    marks = (f"†{row.collapsed}" if row.collapsed else "") + (f"‡{row.failed}" if row.failed else "")
    return f"{row.mean * 100:.1f}{interval}{' ' if marks else ''}{marks}"


def to_markdown(compared: pd.DataFrame, caption: str) -> str:
    """Return the table in Markdown, below its caption and above the legend of its marks.

    Args:
        compared: The comparison, as `compare` gives it.
        caption: The caption of the table.
    """
    # DataFrame.to_markdown needs another package, tabulate, for these four lines
    header, rows = tabulate(compared)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *([f"`{name}`", *texts] for name, *texts in rows))]
    return f"{caption}\n\n" + "\n".join(lines) + f"\n\n{LEGEND}\n"


def to_latex(compared: pd.DataFrame, caption: str) -> str:
    """Return the table in LaTeX, with the rules of booktabs.

    Args:
        compared: The comparison, as `compare` gives it.
        caption: The caption of the table.
    """
    # Styler.to_latex leaves the caption as it is, and ±, † and ‡ as characters that not every LaTeX has
    header, rows = tabulate(compared)
    body = "\n".join(f"  {' & '.join(map(_escape, row))} \\\\" for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escape(caption)} {_escape(LEGEND)}}}\n"
        f"  \\begin{{tabular}}{{{columns}}}\n  \\toprule\n"
        f"  {' & '.join(map(_escape, header))} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n"
        "  \\end{tabular}\n\\end{table}\n"
    )


def _escape(text: str) -> str:
    signs = {"_": r"\_", "%": r"\%", "&": r"\&", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$"}
    return "".join(signs.get(sign, sign) for sign in text)
