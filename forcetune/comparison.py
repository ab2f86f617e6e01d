"""Methods side by side over sparsity: the grid study that runs them, and the table of what they reached."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from forcetune.errors import InputError
from forcetune.spec import Study, Trial
from forcetune.spec.reading import read_yaml

CONTROLS = ("random", "random_uniform", "random_erk")
CONFIDENCE = 0.95
FEW_SEEDS = 3  # up to which an interval says little: Student's factor is 12.7 for two, 4.3 for three, 2.8 for five
LEGEND = "Counted at chance: †n where n of the seeds collapsed, ‡n where n failed."


def grid_study(
    name: str,
    methods: Sequence[str],
    densities: Sequence[float],
    seeds: int,
    fields: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> dict[str, Any]:
    """The study file that runs these methods and the random controls at every density with every seed."""
    return {
        "study": name,
        "trial": {
            **fields,
            "method": list(dict.fromkeys([*methods, *CONTROLS])),
            "seed": list(range(seeds)),
            "density": list(dict.fromkeys(densities)),  # last, so that its trials, which share pruning steps, are near
        },
        "search": {"sampler": "grid"},
        **({"resources": dict(resources)} if resources else {}),
    }


def write_study(path: Path, study: Mapping[str, Any]) -> Path:
    """Write the study file; of one that stands there only the resources may differ.

    Raises InputError where another study stands there, or no file can be written.
    """
    try:
        before = read_yaml(path) if path.exists() else study
    except InputError as error:
        raise InputError(f"--out: {path} cannot be written over: {error}") from error
    try:
        if _but_resources(before) != _but_resources(study):
            raise InputError(f"{path} is another study; give this comparison another name (--study) or folder (--out)")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--out: {path} cannot be written: {error}") from error
    return path


def _but_resources(study: Any) -> Any:
    """What may not change under a name."""
    return {**study, "resources": None} if isinstance(study, Mapping) else study


def compare(table: pd.DataFrame, trials: Iterable[Trial], chance: float) -> pd.DataFrame:
    """One row a method and density: method, density, sparsity, seeds, mean, std, half_width, collapsed, failed.

    table: of the study; trials: its configurations, which differ in method, density and seed.
    mean, std, half_width: of the validation accuracy, the last half of Student's 95 % interval of the mean (NaN for
    one seed). Collapsed and failed trials count at the accuracy `chance`; both are counted too.
    """
    asked = pd.DataFrame([{"trial": trial.key, "method": trial.method, "density": trial.density} for trial in trials])
    accuracy = table.get("val_accuracy", np.nan)
    reached = pd.DataFrame({"trial": table["trial"], "outcome": table["outcome"], "accuracy": accuracy})
    told = asked.merge(reached.dropna(subset="outcome"), on="trial")
    told["accuracy"] = told["accuracy"].where(told["outcome"] == "trained", chance)
    for outcome in ("collapsed", "failed"):
        told[outcome] = told["outcome"] == outcome
    found = told.groupby(["method", "density"], sort=False, as_index=False).agg(
        seeds=("accuracy", "size"),
        mean=("accuracy", "mean"),
        std=("accuracy", "std"),
        collapsed=("collapsed", "sum"),
        failed=("failed", "sum"),
    )
    found["half_width"] = stats.t.ppf((1 + CONFIDENCE) / 2, found["seeds"] - 1) * found["std"] / np.sqrt(found["seeds"])
    found.insert(2, "sparsity", 1 - found["density"])
    return found


def side_by_side(compared: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table that people read: a row a method, a column a sparsity, percent."""
    densities = sorted(compared["density"].unique(), reverse=True)
    cells = {(row.method, row.density): _cell(row) for row in compared.itertuples()}
    header = ["method", *(f"{1 - density:.4%}".rstrip("0%").rstrip(".") + " %" for density in densities)]
    methods = compared["method"].drop_duplicates()
    return header, [[method, *(cells.get((method, density), "") for density in densities)] for method in methods]


def caption(study: Study, seeds: int) -> str:
    """What the table shows, in one sentence."""
    trial = study.trial
    return (
        f"Validation accuracy of {trial['model']} on {trial['dataset']} by sparsity, in percent: "
        f"mean and 95 % interval over {seeds} seeds."
    )


def doubt(seeds: int) -> str | None:
    """Return what to say of intervals over so few seeds; None where they are enough."""
    if not 1 < seeds <= FEW_SEEDS:
        return None
    factor = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) / np.sqrt(seeds)
    return (
        f"An interval over {seeds} seeds is {factor:.1f} standard deviations to each side, so that it says little of "
        "the methods; five seeds have 1.2, ten 0.7."
    )


def export(compared: pd.DataFrame, caption: str, stem: Path) -> list[Path]:
    """Write the comparison beside `stem` as .csv (all numbers), .md and .tex (as printed)."""
    texts = {
        ".csv": compared.to_csv(index=False),
        ".md": markdown(compared, caption),
        ".tex": latex(compared, caption),
    }
    paths = [stem.with_name(stem.name + ending) for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths


def _cell(row: Any) -> str:
    interval = "" if np.isnan(row.half_width) else f" ± {row.half_width * 100:.1f}"
    marks = (f"†{row.collapsed}" if row.collapsed else "") + (f"‡{row.failed}" if row.failed else "")
    return f"{row.mean * 100:.1f}{interval}{' ' if marks else ''}{marks}"


def markdown(compared: pd.DataFrame, caption: str) -> str:
    """The table in Markdown, what it shows above it and what its marks mean below."""
    header, rows = side_by_side(compared)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *([f"`{name}`", *rest] for name, *rest in rows))]
    return f"{caption}\n\n" + "\n".join(lines) + f"\n\n{LEGEND}\n"


def latex(compared: pd.DataFrame, caption: str) -> str:
    """The table in LaTeX, with booktabs' rules."""
    header, rows = side_by_side(compared)
    body = "\n".join(f"  {' & '.join(map(_escaped, row))} \\\\" for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escaped(caption)} {_escaped(LEGEND)}}}\n"
        f"  \\begin{{tabular}}{{{columns}}}\n  \\toprule\n"
        f"  {' & '.join(map(_escaped, header))} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n"
        "  \\end{tabular}\n\\end{table}\n"
    )


def _escaped(text: str) -> str:
    signs = {"_": r"\_", "%": r"\%", "&": r"\&", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$"}
    return "".join(signs.get(sign, sign) for sign in text)
