"""The share of fresh runs that the intervals of `best STUDY --at SPARSITY` hold, at sparsities that no trial had.

    python benchmarks/dial.py --seeds 3             # a second call goes on where the first ended
    python benchmarks/dial.py --seeds 3 --only-print
    python benchmarks/dial.py --draw docs/belief.svg

Each search has 40 trials of an MLP on the handwritten digits, proposed by `front`, by `tpe` or at random, none stopped;
then its front is run again with fresh seeds, as `search: {seeds: {front: 5}}` does. After that come fresh runs at
sparsities that were not run: at each of four, the configuration that the model names, and the one that it names for
each method with enough trials, three seeds each, which no other run has. Last, 20 further trials at one sparsity,
proposed by `front`, say what further trials gain. The seed of a search is the seed of its trials.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.trial import FrozenTrial
from search import SPACE, run_trial

from forcetune.analysis.dial import MIN_DIAL_TRIALS, Dial, Interval
from forcetune.search.companions import propose_reruns
from forcetune.search.proposals import make_proposals
from forcetune.study import Study, Trial

DIAL_RESULTS_FOLDER = Path(__file__).parent / "dial-results"
DIAL_SEARCH_TRIALS = 40
FRESH_SEEDS_AT_MOST = 5
CHECKED_SPARSITIES, CHECKED_SEEDS, FIRST_CHECKED_SEED = 4, 3, 100_000
DIAL_SAMPLERS = ("front", "tpe", "random")
FURTHER_SPARSITY, FURTHER_HALF_BAND, FURTHER_SEEDS = 0.975, 0.001, 4
PICTURED_COUNTS = (8, 16, 32)
DIAL_FIELDS = [*SPACE, "seed"]

Row = dict[str, Any]
Key = tuple[str, int]  # sampler and seed of a search


def main() -> None:
    """Search and check with every seed that has no row yet, and print the tables; or draw a search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="searches with each sampler")
    parser.add_argument("--samplers", default=",".join(DIAL_SAMPLERS), help="with commas between")
    parser.add_argument("--first-seed", type=int, default=0, help="the seed of the first search")
    parser.add_argument("--processes", type=int, default=2, help="searches at once")
    parser.add_argument("--results", type=Path, default=DIAL_RESULTS_FOLDER, help="folder of the rows")
    parser.add_argument("--only-print", action="store_true", help="print the tables of the rows that there are")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the belief of the first search as this file")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    keys = [(sampler, seed) for seed in seeds for sampler in arguments.samplers.split(",")]
    if arguments.draw:
        draw_belief(read_rows(arguments.results / "searches.jsonl")[keys[0]], arguments.draw)
        return
    if not arguments.only_print:
        with multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
            for step, measure in (("searches", search), ("checks", check), ("further", search_further)):
                add_rows(pool.imap, arguments.results, step, measure, keys)
    print_tables(arguments.results, keys)


def add_rows(
    imap: Callable[..., Iterable[Row]],
    folder: Path,
    step: str,
    measure: Callable[[Row], Row],
    keys: Iterable[Key],
) -> None:
    """Measure what is missing of a step, and add a row for each search to its file."""
    path = folder / f"{step}.jsonl"
    done, searches = read_rows(path), read_rows(folder / "searches.jsonl")
    missing = [searches.get(key, dict(zip(("sampler", "seed"), key, strict=True))) for key in keys if key not in done]
    with path.open("a", encoding="utf-8") as file:
        for row in imap(measure, missing):
            print(json.dumps(row, separators=(",", ":")), file=file, flush=True)


def read_rows(path: Path) -> dict[Key, Row]:
    """Return the rows of a file by sampler and seed."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["sampler"], row["seed"]): row for row in rows}


def make_study(sampler: str, seed: int, sparsity: float | None = None) -> Study:
    """Return the study of a search; with a sparsity, one that looks there alone."""
    fixed = {"dataset": "digits", "model": "mlp", "epochs": 6, "seed": seed}
    focus = {"focus": {"sparsity": [sparsity - FURTHER_HALF_BAND, sparsity + FURTHER_HALF_BAND]}} if sparsity else {}
    options = {"sampler": sampler, "trials": DIAL_SEARCH_TRIALS, "seed": seed, "seeds": {"front": FRESH_SEEDS_AT_MOST}}
    return Study.from_dict({"study": "dial", "trial": {**fixed, **SPACE}, "search": {**options, **focus}})


def search(row: Row) -> Row:
    """Return the row of a search: its trials, and the runs of its front with fresh seeds."""
    study = make_study(row["sampler"], row["seed"])
    trials = run_proposals(study, [], DIAL_SEARCH_TRIALS)
    reruns: list[FrozenTrial] = []
    while proposals := propose_reruns(study, [trial for trial in trials if is_trained(trial)], reruns):
        for proposal in proposals:
            reruns.append(make_ended_trial(proposal.trial, {}, {}, {"of": proposal.parent_key}))
    return {**row, "trials": [*map(make_record, trials)], "reruns": [*map(make_record, reruns)]}


def run_proposals(study: Study, history: list[FrozenTrial], count: int) -> list[FrozenTrial]:
    """Run the next trials that a study proposes, and return them."""
    proposals = make_proposals(study, history)
    trials = []
    for _ in range(count):
        proposal = proposals.ask()
        assert proposal
        trial = make_ended_trial(proposal.trial, proposal.params, proposal.distributions, {})
        proposals.tell(proposal, trial.values, is_trained(trial))
        trials.append(trial)
    return trials


def make_ended_trial(
    configuration: Trial, params: dict[str, Any], distributions: dict[str, Any], attrs: dict[str, Any]
) -> FrozenTrial:
    """Run a trial and return it as the ledger has it."""
    values, trained = run_trial(configuration)
    outcome = "trained" if trained else "collapsed"
    attrs |= {"key": configuration.key, "fields": configuration.fields()}
    attrs |= {"ended": {"outcome": outcome, "values": values}}
    return optuna.trial.create_trial(params=params, distributions=distributions, values=values, user_attrs=attrs)


def is_trained(trial: FrozenTrial) -> bool:
    """Return whether a trial was trained."""
    return bool(trial.user_attrs["ended"]["outcome"] == "trained")


def make_record(trial: FrozenTrial) -> Row:
    """Return what the results keep of a trial: the names of the columns of a study's table."""
    attrs, (accuracy, density) = trial.user_attrs, trial.values
    fields = {name: attrs["fields"][name] for name in DIAL_FIELDS if name in attrs["fields"]}
    proposed, name = fields["density"], {"of": attrs["of"]} if "of" in attrs else {"trial": attrs["key"]}
    record = {**fields, "density": density, "val_accuracy": accuracy, **({} if "of" in attrs else {"asked": proposed})}
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in record.items()}
    return {**rounded, "outcome": attrs["ended"]["outcome"], **name}


def make_dial(row: Row, with_seeds: bool = True, further: Iterable[Row] = ()) -> Dial:
    """Return the model of a search.

    Args:
        row: The row of the search.
        with_seeds: Whether the model sees the runs with fresh seeds.
        further: The records of further trials.
    """
    trials = pd.DataFrame([*row["trials"], *further]).astype({"iterations": "Int64"})
    reruns = pd.DataFrame(row["reruns"] if with_seeds else [])
    return Dial(trials, reruns, DIAL_FIELDS, {"val_accuracy": "max", "density": "min"})


def check(row: Row) -> Row:
    """Return the fresh runs of a search at sparsities that no trial had."""
    dial, trials = make_dial(row), pd.DataFrame(row["trials"])
    generator = np.random.default_rng(row["seed"])
    low, high = np.log(trials["density"].min()), np.log(trials["density"].max())
    shares = (np.arange(CHECKED_SPARSITIES) + generator.random(CHECKED_SPARSITIES)) / CHECKED_SPARSITIES
    counts = trials["method"].value_counts()
    methods = [None, *sorted(counts.index[counts >= MIN_DIAL_TRIALS])]
    seed, checks = FIRST_CHECKED_SEED * (1 + row["seed"]), []
    for sparsity in (1 - np.exp(low + shares * (high - low))).round(6).tolist():
        for method in methods:
            selected = None if method is None else trials.index[trials["method"] == method]
            configuration = dial.predict(sparsity, selected).configuration
            seeds = range(seed, seed := seed + CHECKED_SEEDS)
            accuracies = run_configuration(configuration, sparsity, seeds)
            choice = method or "best"
            checks.append(
                {"choice": choice, "sparsity": sparsity, "configuration": configuration, "accuracies": accuracies}
            )
    return {"sampler": row["sampler"], "seed": row["seed"], "checks": checks}


def run_configuration(configuration: Row, sparsity: float, seeds: Iterable[int]) -> list[float]:
    """Return the accuracies of a configuration with some seeds."""
    fields = {"dataset": "digits", "model": "mlp", "epochs": 6, **configuration, "density": 1 - sparsity}
    return [round(run_trial(Trial(**fields, seed=seed))[0][0], 5) for seed in seeds]


def search_further(row: Row) -> Row:
    """Return what 20 further trials at one sparsity gain, and what the model expects of them."""
    dial = make_dial(row)
    before = dial.predict(FURTHER_SPARSITY)
    study = make_study("front", row["seed"], FURTHER_SPARSITY)
    history = [restore_trial(study, record) for record in row["trials"]]
    trials = run_proposals(study, history, before.further_trials)
    further = [make_record(trial) for trial in trials]
    after = make_dial(row, further=further).predict(FURTHER_SPARSITY)
    first_seed = FIRST_CHECKED_SEED * (1 + row["seed"]) + FIRST_CHECKED_SEED // 2
    seeds = range(first_seed, first_seed + FURTHER_SEEDS)
    accuracies = [run_configuration(best.configuration, FURTHER_SPARSITY, seeds) for best in (before, after)]
    expected = {"gain": before.further_gain, "gain_high": before.further_gain_high}
    key = {"sampler": row["sampler"], "seed": row["seed"]}
    return {**key, "further": further, **expected, "before": accuracies[0], "after": accuracies[1]}


def restore_trial(study: Study, record: Row) -> FrozenTrial:
    """Return a recorded trial as the ledger has it."""
    from forcetune.search.samplers import make_distribution

    params = {name: record[name] for name in SPACE if name in record} | {"density": record["asked"]}
    return optuna.trial.create_trial(
        params=params,
        distributions={name: make_distribution(study.space[name]) for name in params},
        values=[record["val_accuracy"], record["density"]],
        user_attrs={"key": record["trial"]},
        constraints=None if record["outcome"] == "trained" else {"off_front": 1.0},
    )


def print_tables(folder: Path, keys: Iterable[Key]) -> None:
    """Print how many fresh runs the intervals hold, and what further trials gained."""
    searches, checks, further = (read_rows(folder / f"{step}.jsonl") for step in ("searches", "checks", "further"))
    done = [key for key in keys if key in checks]
    table = pd.DataFrame(
        {"seen": "with fresh seeds" if with_seeds else "its own seed alone", "sampler": key[0], "search": key, **run}
        for with_seeds in (True, False)
        for key in done
        for run in judge_runs(make_dial(searches[key], with_seeds), checks[key]["checks"])
    )
    names = [*dict.fromkeys(table["choice"])]
    print(f"Fresh runs in the 90 % interval, {len(done)} searches of {DIAL_SEARCH_TRIALS} trials\n")
    print(
        f"| sampler | the model sees | fresh runs | in the interval | {' | '.join(names)} | sparser half | "
        "denser half | each search | width, points, median | means of three in their interval |"
    )
    print(f"|---|---|---:|---:|{'---:|' * (len(names) + 5)}")
    groups = [("all", table), *((str(sampler), runs) for sampler, runs in table.groupby("sampler"))]
    for sampler, both in groups:
        for seen, runs in both.groupby("seen", sort=False):
            is_sparse = runs["sparsity"] > runs["sparsity"].median()
            cells = [format_share(runs["is_held"])]
            cells += [format_share(runs.loc[runs["choice"] == name, "is_held"]) for name in names]
            cells += [format_share(runs.loc[is_half, "is_held"]) for is_half in (is_sparse, ~is_sparse)]
            cells.append(", ".join(f"{share:.0%}" for share in runs.groupby("search")["is_held"].mean()))
            cells += [f"{100 * runs['width'].median():.1f}", format_share(runs["is_mean_held"])]
            print(f"| {sampler} | {seen} | {len(runs)} | {' | '.join(cells)} |")
    print("\n20 further trials at 97.5 % sparsity, points of accuracy\n\n| search | expected | at most | gained |")
    print("|---|---:|---:|---:|")
    for row in (further[key] for key in done if key in further):
        gain = np.mean(row["after"]) - np.mean(row["before"])
        expected = f"{100 * row['gain']:.1f} | {100 * row['gain_high']:.1f}"
        print(f"| {row['sampler']} {row['seed']} | {expected} | {100 * gain:.1f} |")


def judge_runs(dial: Dial, checks: Iterable[Row]) -> Iterable[Row]:
    """Yield for each fresh run whether the interval of its configuration holds it."""
    for entry in checks:
        interval: Interval = dial.predict_configuration(entry["sparsity"], entry["configuration"])
        of_mean = dial.predict_configuration(entry["sparsity"], entry["configuration"], CHECKED_SEEDS)
        for accuracy in entry["accuracies"]:
            yield {
                "choice": entry["choice"],
                "sparsity": entry["sparsity"],
                "is_held": interval.low <= accuracy <= interval.high,
                "is_mean_held": of_mean.low <= np.mean(entry["accuracies"]) <= of_mean.high,
                "width": interval.high - interval.low,
            }


def format_share(is_held: pd.Series) -> str:
    """Return a share of runs in percent."""
    return f"{is_held.mean():.1%}" if len(is_held) else "-"


def draw_belief(row: Row, path: Path) -> None:
    """Draw what the model believes after 8, 16 and 32 trials of a search: a panel each."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "belief"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PICTURED_COUNTS), figsize=(4.2 * len(PICTURED_COUNTS), 3.8), sharey=True)
    methods = sorted({record["method"] for record in row["trials"]})
    for count, panel in zip(PICTURED_COUNTS, panels, strict=True):
        first = {"trials": row["trials"][:count], "reruns": []}
        band = make_dial(first).predict_band()
        panel.fill_between(band["density"], band["low"], band["high"], color="C0", alpha=0.2, linewidth=0)
        panel.plot(band["density"], band["accuracy"], color="C0", label="best configuration, expected")
        for i, method in enumerate(methods):
            points = [(r["density"], r["val_accuracy"]) for r in first["trials"] if r["method"] == method]
            panel.plot(*zip(*points, strict=True), "os^D"[i], color=f"C{i + 1}", label=method, ms=5) if points else None
        panel.set(title=f"after {count} trials", xscale="log", xlabel="density", xlim=(0.6, 0.004), ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation accuracy")
    panels[0].legend(fontsize="x-small", frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
