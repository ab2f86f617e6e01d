"""The hypervolume of the fronts that samplers find in 64 real trials.

    python benchmarks/search.py --seeds 10                     # a second call goes on where the first ended
    python benchmarks/search.py --samplers front,tpe --seeds 2

Every trial prunes an MLP and trains it on the handwritten digits to its end. All samplers but the grid draw from one
space; the grid has 4 methods, 8 densities and 2 learning rates of it. `tpe_sobol` is TPE that begins with the trials of
`front`, which are Sobol points. The seed of a search is also the seed of its trials, so that all samplers of a seed get
the same split and initial weights. The hypervolume is that on log10 density, from chance accuracy and density 0.5; the
front is that of the search, and then the same front measured again with two other seeds.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from forcetune import trial
from forcetune.analysis import hypervolume, non_dominated
from forcetune.search.proposals import SampledProposals, make_proposals
from forcetune.search.samplers import count_start_trials, make_sampler
from forcetune.study import Study, Trial

RESULTS_FILE = Path(__file__).parent / "search-results" / "digits.jsonl"
SEARCH_TRIALS = 64
REMEASURING_SEEDS = (10_001, 10_002)
DIGITS_CHANCE = 0.1
COMPARED_SAMPLERS = ("front", "tpe", "tpe_sobol", "optuna:GPSampler", "nsga2", "random", "grid")
SPACE_LOW_DENSITY, SPACE_HIGH_DENSITY = 0.005, 0.5
SPACE: dict[str, Any] = {
    "method": ["random_erk", "snip", "force", "synflow"],
    "density": {"low": SPACE_LOW_DENSITY, "high": SPACE_HIGH_DENSITY, "log": True},
    "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["force", "synflow"]}},
    "lr": {"low": 0.02, "high": 0.5, "log": True},
}
GRID: dict[str, Any] = {
    "method": SPACE["method"],
    "density": [float(f"{density:.4g}") for density in np.geomspace(SPACE_LOW_DENSITY, SPACE_HIGH_DENSITY, 8)],
    "lr": [0.05, 0.2],
}


def main() -> None:
    """Search with every sampler and seed that has no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="searches with each sampler")
    parser.add_argument("--samplers", default=",".join(COMPARED_SAMPLERS), help="with commas between")
    parser.add_argument("--processes", type=int, default=2, help="searches at once")
    parser.add_argument("--results", type=Path, default=RESULTS_FILE, help="file of the rows")
    arguments = parser.parse_args()
    samplers = arguments.samplers.split(",")
    searches = [(sampler, seed) for seed in range(arguments.seeds) for sampler in samplers]
    rows = read_rows(arguments.results)
    missing = [key for key in searches if key not in rows]
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with (
        multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool,
        arguments.results.open("a", encoding="utf-8") as file,
    ):
        for row in pool.imap(search, missing):
            print(json.dumps(row), file=file, flush=True)
    rows = read_rows(arguments.results)
    print_table(samplers, {key: rows[key] for key in searches})


def read_rows(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows by sampler and seed."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["sampler"], row["seed"]): row for row in rows}


def print_table(samplers: list[str], rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Print a row for each sampler: its hypervolumes, and how soon it reaches the last one of TPE."""
    seeds = sorted({seed for _, seed in rows})
    print(f"Hypervolume of the front, mean and standard deviation of {len(seeds)} searches\n")
    print(
        "| sampler | after 16 trials | after 32 | after 64 | after 64, with fresh seeds | trials until TPE's last, "
        "median | ahead of TPE in the end | ms an ask |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for sampler in samplers:
        sampler_rows = [rows[sampler, seed] for seed in seeds]
        cells = [
            format_mean([row["volumes"][count - 1] for row in sampler_rows]) for count in (16, 32, SEARCH_TRIALS)
        ] + [format_mean([row["fresh_volume"] for row in sampler_rows])]
        reached, ahead = "-", "-"
        if ("tpe", seeds[0]) in rows and sampler != "tpe":
            pairs = [(row["volumes"], rows["tpe", row["seed"]]["volumes"]) for row in sampler_rows]
            counts = [
                next((i for i, volume in enumerate(volumes, 1) if volume >= tpe[-1]), SEARCH_TRIALS + 1)
                for volumes, tpe in pairs
            ]
            median = np.median(counts)
            reached = f"{median:g}" if median <= SEARCH_TRIALS else f"not in {SEARCH_TRIALS}"
            ahead = f"{sum(volumes[-1] > tpe[-1] for volumes, tpe in pairs)} of {len(pairs)}"
        milliseconds = np.mean([row["ask_seconds"] for row in sampler_rows]) * 1000
        print(f"| {sampler} | {' | '.join(cells)} | {reached} | {ahead} | {milliseconds:.1f} |")


def format_mean(values: list[float]) -> str:
    """Return the mean and the standard deviation as text."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def search(sampler_and_seed: tuple[str, int]) -> dict[str, Any]:
    """Return the row of a search: the hypervolume after each trial, that with fresh seeds, and the seconds an ask."""
    sampler, seed = sampler_and_seed
    study = make_study(sampler, seed)
    proposals = make_proposals(study, [])
    if sampler == "tpe_sobol":
        assert isinstance(proposals, SampledProposals)
        begin_with_sobol_points(proposals, study)
    order = np.random.default_rng(seed).permutation(SEARCH_TRIALS) if sampler == "grid" else range(SEARCH_TRIALS)
    grid_proposals = [proposals.ask() for _ in range(SEARCH_TRIALS)] if sampler == "grid" else []
    points: list[list[float]] = []
    configurations: list[Trial] = []
    volumes: list[float] = []
    seconds = 0.0
    for number in order:
        started = time.perf_counter()
        proposal = grid_proposals[number] if grid_proposals else proposals.ask()
        seconds += time.perf_counter() - started
        assert proposal
        values, is_trained = run_trial(proposal.trial)
        proposals.tell(proposal, values, is_trained)
        points += [values] if is_trained else []
        configurations += [proposal.trial] if is_trained else []
        volumes.append(measure_volume(study, points))
    fresh_points = measure_again(study, points, configurations)
    return {
        "sampler": sampler,
        "seed": seed,
        "volumes": volumes,
        "fresh_volume": measure_volume(study, fresh_points),
        "ask_seconds": seconds / SEARCH_TRIALS,
    }


def make_study(sampler: str, seed: int) -> Study:
    """Return the study of a search."""
    fixed = {"dataset": "digits", "model": "mlp", "epochs": 6, "seed": seed}
    name = "front" if sampler == "tpe_sobol" else sampler
    return Study.from_dict(
        {
            "study": "search",
            "trial": {**fixed, **(GRID if sampler == "grid" else SPACE)},
            "search": {"sampler": name, "trials": SEARCH_TRIALS, "seed": seed},
        }
    )


def begin_with_sobol_points(proposals: SampledProposals, study: Study) -> None:
    """Let TPE go on after the first trials of the sampler `front`."""
    tpe = study.model_copy(update={"search": study.search.model_copy(update={"sampler": "tpe"})})
    start, later = make_sampler(study, 0), make_sampler(tpe, 0)

    class SobolThenTpe(optuna.samplers.BaseSampler):
        def _choose(self, trial: optuna.trial.FrozenTrial) -> optuna.samplers.BaseSampler:
            return start if trial.number < count_start_trials(study) else later

        def infer_relative_search_space(self, memory_study: Any, trial: Any) -> Any:
            return self._choose(trial).infer_relative_search_space(memory_study, trial)

        def sample_relative(self, memory_study: Any, trial: Any, space: Any) -> Any:
            return self._choose(trial).sample_relative(memory_study, trial, space)

        def sample_independent(self, memory_study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self._choose(trial).sample_independent(memory_study, trial, name, distribution)

    proposals._sampler = SobolThenTpe()
    proposals._make_memory_study([])
    proposals._covering_values = lambda index: {}  # type: ignore[method-assign]


def run_trial(configuration: Trial) -> tuple[list[float], bool]:
    """Train a trial to its end, and return its values and whether it was trained at all."""
    metrics = list(trial.run(configuration))[-1]
    return [metrics["val_accuracy"], metrics["density"]], metrics["epoch"] > 0


def measure_volume(study: Study, points: list[list[float]]) -> float:
    """Return the hypervolume of points of accuracy and density."""
    return float(hypervolume(np.array(points).reshape(-1, 2), study.directions, study.references(DIGITS_CHANCE)))


def measure_again(study: Study, points: list[list[float]], configurations: list[Trial]) -> list[list[float]]:
    """Return the front's points with the mean accuracy of fresh seeds."""
    on_front = non_dominated(np.array(points).reshape(-1, 2), list(study.directions.values()))
    fresh_points = []
    for configuration, is_on_front in zip(configurations, on_front, strict=True):
        if is_on_front:
            runs = [run_trial(configuration.model_copy(update={"seed": seed}))[0] for seed in REMEASURING_SEEDS]
            fresh_points.append([float(np.mean([run[0] for run in runs])), runs[0][1]])
    return fresh_points


if __name__ == "__main__":
    main()
