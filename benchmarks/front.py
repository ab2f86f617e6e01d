"""The front of README: the points of a search on Fashion-MNIST, with the verdicts against their controls.

    forcetune search benchmarks/front.yaml
    forcetune baseline fashion_front --top 1 --bands 0.5,0.8,0.9,0.95,0.98,0.99
    python benchmarks/front.py             # reads MLflow, writes front-results/fashion.json, the table and the picture
    python benchmarks/front.py --only-draw # the table and the picture of the results that there are

The accuracy of a point is the mean of the validation accuracies of its runs with fresh seeds. The picture also has the
rivals of the compared points, each by the validation accuracies of its runs. The verdicts are those of `forcetune
baseline`, from test accuracies. Intervals are Student's, at 95 %.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot
from scipy import stats

from forcetune.analysis import DEFAULT_COLLAPSE_MARGIN
from forcetune.baseline import DEFAULT_MARGIN_POINTS, DEFAULT_SEEDS, ChampionStudy
from forcetune.baseline.evidence import Margins, judge_comparisons

FRONT_STUDY = "fashion_front"
FRONT_BANDS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
FRONT_RESULTS = Path(__file__).parent / "front-results" / "fashion.json"
FRONT_PICTURE = Path(__file__).parents[1] / "docs" / "front.svg"
TABLE_RIVALS = {"random_erk": "random weights (ERK)", "small_dense": "small dense network"}
FRONT_LOOKS = {  # of a point of the front by its method, and of a rival
    "synflow": ("SynFlow", "#0072b2", "o"),
    "force": ("FORCE", "#56b4e9", "v"),
    "random_erk": ("random weights (ERK)", "#d55e00", "s"),
    "small_dense": ("small dense network", "#009e73", "D"),
}

Row = dict[str, Any]


def main() -> None:
    """Read the study, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-draw", action="store_true", help="read the results that there are, not MLflow")
    if not parser.parse_args().only_draw:
        FRONT_RESULTS.parent.mkdir(exist_ok=True)
        FRONT_RESULTS.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
    rows = json.loads(FRONT_RESULTS.read_text(encoding="utf-8"))
    draw(rows)
    print_table(rows)


def collect() -> list[Row]:
    """Return a row for each point of the front; that of a champion has its rivals with the verdicts."""
    study = ChampionStudy(FRONT_STUDY, top=1, edges=FRONT_BANDS)
    assert study.companion_table is not None, "`forcetune baseline` has run"
    comparisons = [comparison for champion in study.champions for comparison in study.list_comparisons(champion)[0]]
    seeds = [study.pair_seed(index) for index in range(DEFAULT_SEEDS)]
    margins = Margins(DEFAULT_MARGIN_POINTS, DEFAULT_COLLAPSE_MARGIN)
    verdicts: list[dict[Any, Any]] = judge_comparisons(comparisons, study.companions, seeds, margins).to_dict("records")
    runs = pd.DataFrame(study.companion_table)
    rows = []
    for trial in study.results.front.to_dict("records"):
        point = study.find_champion(trial["trial"])
        if point is None:  # it is less sparse than the first band
            continue
        row = {
            "trial": trial["name"],
            "label": point.label,
            "sparsity": round(trial["sparsity"], 5),
            "seeds": int(trial["seeds"]),
            "accuracy": [round(trial[f"val_accuracy_{name}"], 5) for name in ("mean", "low", "high")],
            "front_probability": round(trial["front_probability"], 3),
        }
        rivals = collect_rivals([verdict for verdict in verdicts if verdict["trial"] == point.key], runs)
        rows.append({**row, "rivals": rivals} if rivals else row)
    return rows


def collect_rivals(verdicts: list[dict[Any, Any]], runs: pd.DataFrame) -> dict[str, Row]:
    """Return the rivals of a point by their names, with the verdicts against them and the accuracies of their runs."""
    return {
        verdict["against"]: {
            "verdict": verdict["verdict"],
            "statement": verdict["statement"],
            "pairs": verdict["live_pairs"],
            "points": [round(verdict[name], 2) for name in ("mean", "low", "high")],
            "val_accuracies": runs.loc[
                (runs["of"] == verdict["trial"]) & (runs["arm"] == verdict["against"]), "val_accuracy"
            ].tolist(),
        }
        for verdict in verdicts
    }


def print_table(rows: list[Row]) -> None:
    """Print the front in Markdown, with the verdicts of the table's rivals."""
    print("| sparsity | method | seeds | validation accuracy |", " | ".join(TABLE_RIVALS.values()), "|")
    print("|---:|---|---:|---:|" + "---|" * len(TABLE_RIVALS))
    for row in rows:
        middle, low, high = (100 * value for value in row["accuracy"])
        cells = [format_rival(row.get("rivals", {}).get(rival)) for rival in TABLE_RIVALS]
        print(
            f"| {row['sparsity']:.1%} | {row['label']} | {row['seeds']} | {middle:.1f} ± {(high - low) / 2:.1f} | "
            f"{' | '.join(cells)} |"
        )


def format_rival(rival: Row | None) -> str:
    """Return the verdict against a rival, with the difference of the test accuracies in points."""
    if rival is None:
        return "not compared"
    middle, low, high = rival["points"]
    return f"{rival['statement']} ({middle:+.1f} points, {low:+.1f} to {high:+.1f}, {rival['pairs']} pairs)"


def draw(rows: list[Row]) -> None:
    """Draw validation accuracy over sparsity: the points of the front, filled, and the rivals of two, hollow."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "front", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(6.8, 3.6), layout="constrained")
    for name, (label, color, marker) in FRONT_LOOKS.items():
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "linestyle": "none", "capsize": 2}
        points = [(1 - row["sparsity"], *row["accuracy"]) for row in rows if row["label"].split()[0] == name]
        rivals = [
            (1 - row["sparsity"], *estimate(row["rivals"][name]["val_accuracies"]))
            for row in rows
            if name in row.get("rivals", {})
        ]
        for drawn, fill, suffix in ((points, color, ""), (rivals, "white", ", rival of a SynFlow point")):
            if drawn:
                positions, *heights = (np.array(values) for values in zip(*drawn, strict=True))
                middle, low, high = (100 * values for values in heights)
                errors = (middle - low, high - middle)
                axes.errorbar(positions, middle, errors, label=label + suffix, markerfacecolor=fill, **look)
    ticks = [0.33, 0.12, 0.06, 0.04, 0.028, 0.017, 0.011]
    axes.set(xscale="log", xlabel="sparsity", ylabel="validation accuracy, %")
    axes.set_title("ResNet-8 on 10 000 images of Fashion-MNIST, fresh seeds, 95 % intervals", fontsize=9)
    axes.set_xlim(0.45, 0.0095)
    axes.set_xticks(ticks, [f"{1 - tick:.1%}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(FRONT_PICTURE, metadata={"Date": None})
    pyplot.close(figure)


def estimate(values: list[float]) -> tuple[float, float, float]:
    """Return the mean of some values and the ends of its 95 % interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean(values), mean(values) - half, mean(values) + half


if __name__ == "__main__":
    main()
