"""The worth of pruning many candidates and training the most promising one: hypervolume per device second.

    python benchmarks/prune_many.py --seeds 3       # a second call goes on where the first ended

A search of an MLP on the handwritten digits in the space of search.py. Arm `front` is that sampler. Arm `many` begins
with the same trials; then it prunes eight candidates, the best by the sampler's expected gain, and adds to the model
what their masks say: effective density, multiply-adds, the norm of the gradient after pruning, and the connection
sensitivity that is left. It trains the candidate with the largest expected gain. Device seconds are those of pruning
and training, of all candidates, without the sampler's own time.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search import DIGITS_CHANCE, make_study, measure_volume
from torch.nn.functional import cross_entropy

from forcetune.analysis.belief import Belief, Field, Observations, Space, Staircase
from forcetune.search.proposals import make_proposals
from forcetune.search.samplers import count_start_trials
from forcetune.study import Trial
from forcetune.trial import PreparedTrial, TrialRun, prepare

PRUNE_MANY_RESULTS = Path(__file__).parent / "search-results" / "prune_many.jsonl"
MANY_TRIALS, FRONT_TRIALS = 32, 64
PRUNED_CANDIDATES = 8
DRAWN_POINTS, NEAR_POINTS = 192, 192
MASK_FEATURES = ("effective_density", "macs", "gradient_norm", "sensitivity")
LOWEST_FEATURE = 1e-8  # below which the logarithm of a feature is not taken
METHODS_WITH_ITERATIONS = ("force", "synflow")


def main() -> None:
    """Search with both arms and every seed that has no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="searches of each arm")
    parser.add_argument("--processes", type=int, default=1, help="searches at once")
    parser.add_argument("--results", type=Path, default=PRUNE_MANY_RESULTS, help="file of the rows")
    arguments = parser.parse_args()
    searches = [(arm, seed) for seed in range(arguments.seeds) for arm in ("front", "many")]
    rows = read_rows(arguments.results)
    with (
        multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool,
        arguments.results.open("a", encoding="utf-8") as file,
    ):
        for row in pool.imap(search, [key for key in searches if key not in rows]):
            print(json.dumps(row), file=file, flush=True)
    print_table(read_rows(arguments.results), arguments.seeds)


def read_rows(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows by arm and seed."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["arm"], row["seed"]): row for row in rows}


def search(arm_and_seed: tuple[str, int]) -> dict[str, Any]:
    """Return the row of a search: the hypervolume and the device seconds after each trial."""
    arm, seed = arm_and_seed
    study = make_study("front", seed)
    proposals = make_proposals(study, [])
    chooser = Chooser(seed)
    points: list[list[float]] = []
    volumes, seconds, spent = [], [], 0.0
    for number in range(MANY_TRIALS if arm == "many" else FRONT_TRIALS):
        is_chosen = arm == "many" and number >= count_start_trials(study)
        proposal = None if is_chosen else proposals.ask()
        candidates = [proposal.trial] if proposal else chooser.list_candidates(study.make_trial)
        started = time.perf_counter()
        prepared = [prepare(candidate) for candidate in candidates]
        features = [measure_features(pruned) if arm == "many" else {} for pruned in prepared]
        spent += time.perf_counter() - started
        best = chooser.choose(candidates, features) if len(candidates) > 1 else 0
        started = time.perf_counter()
        metrics = list(TrialRun(prepared[best]))[-1]
        spent += time.perf_counter() - started
        values, is_trained = [metrics["val_accuracy"], prepared[best].metrics["density"]], metrics["epoch"] > 0
        if proposal:
            proposals.tell(proposal, values, is_trained)
        chooser.add(candidates[best], features[best], values, is_trained)
        points += [values] if is_trained else []
        volumes.append(round(measure_volume(study, points), 5))
        seconds.append(round(spent, 3))
    return {"arm": arm, "seed": seed, "volumes": volumes, "seconds": seconds}


def measure_features(prepared: PreparedTrial) -> dict[str, float]:
    """Return what a mask says before training: sizes, and the gradient of the first batch."""
    images, targets = next(iter(prepared.training_batches()))
    weights = {name: value.detach().clone() for name, value in prepared.model.named_parameters()}
    for name, mask in prepared.masks.items():
        weights[name] = weights[name] * mask
    for value in weights.values():
        value.requires_grad_()
    loss = cross_entropy(torch.func.functional_call(prepared.model, weights, (images,)), targets)
    gradients = dict(zip(weights, torch.autograd.grad(loss, [*weights.values()], allow_unused=True), strict=True))
    kept = [(weights[name], gradients[name] * mask) for name, mask in prepared.masks.items()]
    return {
        "effective_density": prepared.metrics["effective_density"],
        "macs": prepared.metrics["macs"],
        "gradient_norm": sum(float((gradient**2).sum()) for _, gradient in kept) ** 0.5,
        "sensitivity": sum(float((weight * gradient).detach().abs().sum()) for weight, gradient in kept),
    }


class Chooser:
    """The arm `many`: a model without the masks lists candidates, and one with them chooses among these.

    Args:
        seed: The seed of its random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        space: dict[str, Any] = make_study("front", seed).space
        density, iterations, lr = (space[name] for name in ("density", "iterations", "lr"))
        with_iterations = {"method": METHODS_WITH_ITERATIONS}
        self._fields = [
            Field("density", low=density.low, high=density.high, log=True),
            Field("method", choices=tuple(space["method"].values)),
            Field("iterations", low=iterations.low, high=iterations.high, log=True, conditions=with_iterations),
            Field("lr", low=lr.low, high=lr.high, log=True),
        ]
        self._trials: list[tuple[dict[str, Any], dict[str, float], list[float], bool]] = []

    def add(self, trial: Trial, features: dict[str, float], values: list[float], is_trained: bool) -> None:
        """Take the end of a trial into account."""
        self._trials.append((self._read_values(trial), features, values, is_trained))

    def list_candidates(self, make_trial: Any) -> list[Trial]:
        """Return the candidates with the largest gain that the model without masks expects."""
        space = Space(self._fields)
        rows = np.array([space.scale(values) for values, *_ in self._trials])
        belief, staircase = self._make_belief(space, rows)
        drawn = space.draw(space.draw_sobol_numbers(DRAWN_POINTS, self._generator))
        anchors = rows[self._generator.integers(len(rows), size=NEAR_POINTS)]
        points = np.concatenate([drawn, space.perturb(anchors, 0.15, self._generator)])
        gains = belief.expect_gain(points, points[:, 0], staircase)
        best = points[np.argsort(-gains)[:PRUNED_CANDIDATES]]
        near = space.perturb(np.repeat(best, PRUNED_CANDIDATES, 0), 0.05, self._generator)
        points = np.concatenate([points, near])
        gains = belief.expect_gain(points, points[:, 0], staircase)
        chosen = [space.unscale(row) for row in points[np.argsort(-gains)[:PRUNED_CANDIDATES]]]
        return [make_trial(self._round(values)) for values in chosen]

    def choose(self, candidates: Sequence[Trial], features: Sequence[dict[str, float]]) -> int:
        """Return the index of the candidate with the largest gain that the model with masks expects."""
        trial_features = [trial[1] for trial in self._trials]
        logarithms = np.log(
            np.maximum([[entry[n] for n in MASK_FEATURES] for entry in [*trial_features, *features]], LOWEST_FEATURE)
        )
        low, span = logarithms.min(0), np.maximum(np.ptp(logarithms, axis=0), 1e-9)
        scaled = (logarithms - low) / span
        base = Space(self._fields)
        values = [*(trial[0] for trial in self._trials), *map(self._read_values, candidates)]
        rows = np.concatenate([np.array([base.scale(entry) for entry in values]), scaled], axis=1)
        space = Space([*self._fields, *(Field(name) for name in MASK_FEATURES)])
        belief, staircase = self._make_belief(space, rows[: len(self._trials)])
        last = rows[len(self._trials) :]
        return int(belief.expect_gain(last, last[:, 0], staircase).argmax())

    def _make_belief(self, space: Space, rows: np.ndarray) -> tuple[Belief, Staircase]:
        qualities = np.array([values[0] for _, _, values, _ in self._trials])
        belief = Belief(space, DIGITS_CHANCE)
        observations = Observations(rows, qualities, rows[:, 0], np.zeros(len(rows), bool))
        belief.fit(observations, 40)
        belief.condition(observations)
        return belief, Staircase.from_points(rows[:, 0], qualities, DIGITS_CHANCE)

    def _read_values(self, trial: Trial) -> dict[str, Any]:
        fields = trial.fields()
        return {field.name: fields[field.name] for field in self._fields if field.name in fields}

    @staticmethod
    def _round(values: dict[str, Any]) -> dict[str, Any]:
        return {name: round(value) if name == "iterations" else value for name, value in values.items()}


def print_table(rows: dict[tuple[str, int], dict[str, Any]], seeds: int) -> None:
    """Print hypervolumes after 32 trials, and at the device seconds that `many` needs for them."""
    print("| seed | arm | after 32 trials | device s | hypervolume of `front` in the seconds of `many` | its trials |")
    print("|---:|---|---:|---:|---:|---:|")
    for seed in range(seeds):
        front, many = rows["front", seed], rows["many", seed]
        count = int(np.searchsorted(front["seconds"], many["seconds"][-1], side="right"))
        later = f"{front['volumes'][count - 1]:.3f}" if count else "-"
        for arm, row, cells in (("front", front, f"{later} | {count}"), ("many", many, "- | -")):
            last = MANY_TRIALS - 1
            print(f"| {seed} | {arm} | {row['volumes'][last]:.3f} | {row['seconds'][last]:.1f} | {cells} |")


if __name__ == "__main__":
    main()
