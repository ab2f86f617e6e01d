"""Methods side by side over sparsity: the grid study that runs them, and the table of their accuracies."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from forcetune.analysis.paired import CONFIDENCE
from forcetune.errors import InputError
from forcetune.study import Study, Trial
from forcetune.study.reading import read_yaml

COMPARED_CONTROLS = ("random", "random_uniform", "random_erk")
FEW_SEEDS = 3  # up to which an interval says little: Student's factor is 12.7 for two, 4.3 for three, 2.8 for five
LEGEND = "†n: n seeds collapsed; ‡n: n seeds failed; both count at chance accuracy."


def grid_study(
    name: str,
    methods: Sequence[str],
    densities: Sequence[float],
    seeds: int,
    fields: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the study file that runs methods and the random controls at every density with every seed.

    Args:
        name: The name of the study.
        methods: Rows of METHODS.
        densities: The fractions of weights that are kept.
        seeds: The number of seeds, which begin at 0.
        fields: The other fields of a trial.
        resources: The section `resources`; may be empty.
    """
    return {
        "study": name,
        "trial": {
            **fields,
            "method": list(dict.fromkeys([*methods, *COMPARED_CONTROLS])),
            "seed": list(range(seeds)),
            "density": list(dict.fromkeys(densities)),  # last, so that its trials, which share pruning steps, are near
        },
        "search": {"sampler": "grid"},
        **({"resources": dict(resources)} if resources else {}),
    }


def write_study(path: Path, study: Mapping[str, Any]) -> Path:
    """Write a study file and return its path; a file that exists may differ in the resources alone.

    Args:
        path: The path of the file.
        study: The study as plain data.

    Raises:
        InputError: The path has another study, or the file cannot be written.
    """
    try:
        before = read_yaml(path) if path.exists() else study
    except InputError as error:
        raise InputError(f"--out: {path} cannot be overwritten: {error}") from error
    try:
        if _without_resources(before) != _without_resources(study):
            raise InputError(f"{path} already has another study; choose another name (--study) or folder (--out)")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--out: {path} cannot be written: {error}") from error
    return path


def _without_resources(study: Any) -> Any:
    """Return the content of a study file that must stay the same under one name."""
    return {**study, "resources": None} if isinstance(study, Mapping) else study


def compare(table: pd.DataFrame, trials: Iterable[Trial], chance: float) -> pd.DataFrame:
    """Return the validation accuracy of each method at each density.

    Args:
        table: The trials of the study, as `load_results` gives them.
        trials: The configurations of the study, which differ in method, density and seed.
        chance: The accuracy at which collapsed and failed trials count.

    Returns:
        A row for each method and density, with the columns method, density, sparsity, seeds, mean, std, half_width
        (half of Student's 95 % interval of the mean; NaN for one seed), collapsed and failed (the numbers of such
        trials).
    """
    configurations = pd.DataFrame(
        [{"trial": trial.key, "method": trial.method, "density": trial.density} for trial in trials]
    )
    accuracy = table.get("val_accuracy", np.nan)
    outcomes = pd.DataFrame({"trial": table["trial"], "outcome": table["outcome"], "accuracy": accuracy})
    ended = configurations.merge(outcomes.dropna(subset="outcome"), on="trial")
    ended["accuracy"] = ended["accuracy"].where(ended["outcome"] == "trained", chance)
    for outcome in ("collapsed", "failed"):
        ended[outcome] = ended["outcome"] == outcome
    rows = ended.groupby(["method", "density"], sort=False, as_index=False).agg(
        seeds=("accuracy", "size"),
        mean=("accuracy", "mean"),
        std=("accuracy", "std"),
        collapsed=("collapsed", "sum"),
        failed=("failed", "sum"),
    )
    rows["half_width"] = stats.t.ppf((1 + CONFIDENCE) / 2, rows["seeds"] - 1) * rows["std"] / np.sqrt(rows["seeds"])
    rows.insert(2, "sparsity", 1 - rows["density"])
    return rows


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
    trial = study.trial
    return (
        f"Validation accuracy of {trial['model']} on {trial['dataset']} by sparsity, in percent: "
        f"mean and 95 % interval over {seeds} seeds."
    )


def warn_of_few_seeds(seeds: int) -> str | None:
    """Return a warning about intervals over few seeds; None where the seeds are enough, or only one.

    Args:
        seeds: The number of seeds.
    """
    if not 1 < seeds <= FEW_SEEDS:
        return None
    factor = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) / np.sqrt(seeds)
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
