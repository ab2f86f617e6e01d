"""Methods side by side over sparsity: the grid study that runs them, and the table of their accuracies."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from forcetune.analysis.paired import student_half_width
from forcetune.errors import InputError
from forcetune.study import Range, Study, Trial
from forcetune.study.problems import summarize
from forcetune.study.reading import read_yaml

COMPARED_CONTROLS = ("random", "random_uniform", "random_erk")
COMPARED_FIELDS = ("method", "density", "seed")
COMPARED_SEEDS = 5  # of a comparison for which no seeds are requested
# The keys of `search:` that a comparison may have: those with one allowed value, and those with any value.
GRID_SEARCH_VALUES = {"sampler": "grid", "stopping": "none"}
GRID_SEARCH_KEYS = ("seed", "budget", "max_failures", "start")
FEW_SEEDS = 3  # up to which an interval says little: Student's factor is 12.7 for two, 4.3 for three, 2.8 for five
LEGEND = "†n: n seeds collapsed; ‡n: n seeds failed; both count at chance accuracy."


def make_grid(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study file of a comparison, which runs methods and the random controls at every density and seed.

    Args:
        written: The content of a study file, whose trials vary only in method, density and seed; without a seed, the
            seeds are 0 to 4.

    Returns:
        The content of the study file `compare-NAME`, or what is written where that is such a grid already.

    Raises:
        InputError: The content is not valid, another field varies, or not every trial would be trained to its end.
    """
    study = Study.from_dict(written)
    if problems := [*_find_misfits(study)]:
        raise InputError(summarize(problems))
    trial = written["trial"]
    grid = {
        **written,
        "trial": {
            **{name: value for name, value in trial.items() if name not in COMPARED_FIELDS},
            "method": list(dict.fromkeys([*study.space["method"].values, *COMPARED_CONTROLS])),
            "seed": trial.get("seed", list(range(COMPARED_SEEDS))),
            "density": trial["density"],  # last, so that its trials, which share pruning steps, are near
        },
        "search": {**written.get("search", {}), "sampler": "grid"},
    }
    return grid if grid == written else {**grid, "study": f"compare-{study.study}"}


def _find_misfits(study: Study) -> Iterator[str]:
    """Yield a problem for each part of a study that is more than a grid over methods, densities and seeds."""
    for name, domain in study.space.items():
        if name not in COMPARED_FIELDS and len(domain.values) > 1:
            yield f"trial.{name}: varies ({domain}); a comparison varies only {', '.join(COMPARED_FIELDS)}"
        elif isinstance(domain, Range):
            yield f"trial.{name}: is a range ({domain}); list the values to compare, or set them with an option"
    written = study.search.model_dump(exclude_unset=True).items()
    misfits = [key for key, value in written if key not in GRID_SEARCH_KEYS and value != GRID_SEARCH_VALUES.get(key)]
    if misfits:
        allowed = [*(f"{key}: {value}" for key, value in GRID_SEARCH_VALUES.items()), *GRID_SEARCH_KEYS]
        yield (
            f"search: a comparison trains every combination to its end, without {', '.join(misfits)}; allowed: "
            f"{', '.join(allowed)}"
        )
    if study.constraints:
        yield "constraints: a comparison trains every network, without constraints; remove them"


def write_study(path: Path, study: Mapping[str, Any]) -> Path:
    """Write a study file and return its path; a file that exists may differ only in what a study may change.

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
        if _drop_changeable(before) != _drop_changeable(study):
            raise InputError(
                f"{path} already has another study; choose another folder (--out), or another name (`study:` in FILE)"
            )
        if before == study and path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--out: {path} cannot be written: {error}") from error
    return path


def _drop_changeable(study: Any) -> Any:
    """Return the content of a study file that must stay the same under one name."""
    return {**study, "search": None, "resources": None, "code": None} if isinstance(study, Mapping) else study


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
    rows["half_width"] = student_half_width(rows["std"] / np.sqrt(rows["seeds"]), rows["seeds"] - 1)
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
