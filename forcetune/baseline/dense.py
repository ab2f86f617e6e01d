"""Dense companions: the networks of a study with nothing pruned."""

from forcetune import analysis, tracking
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.twins import replace_fields
from forcetune.report.results import DENSE_ARM
from forcetune.study import Companion, CompanionRuns, Trial

UNPRUNED_FIELDS = {"method": "random", "density": 1.0, "small_dense": None, "layers_from": None}
CONTROLS_OFF_FIELDS = {"invert": False, "shuffle": False, "reinit": False}


def plan_dense_runs(study: str, seeds: int) -> tuple[CompanionRuns, float]:
    """Plan the dense runs that a study lacks.

    Each network of the study is trained unpruned, with the settings of its most accurate trial and with fresh seeds.
    Settings that were chosen for a pruned network are not always the best of the dense network: it may reach more.

    Args:
        study: The name of the study.
        seeds: The number of fresh seeds of each network.

    Returns:
        The missing runs, and their device hours if each takes as long as the trial that it belongs to.

    Raises:
        InputError: There is no such study, no trial was trained to its end, or no trial has a validation accuracy.
    """
    champion_study = ChampionStudy(study)
    trials, objectives = champion_study.results.trials, champion_study.results.objectives
    network_fields = [name for name in analysis.NETWORK_COLUMNS if name in trials]
    best_rows = [analysis.top(group, objectives, 1) for _, group in trials.groupby(network_fields, dropna=False)]
    runs = [run_id for rows in best_rows for run_id in rows["run_id"]]
    wanted = [
        run
        for run_id in runs
        for run in _make_dense_runs(champion_study, Trial(**tracking.load_trial_fields(run_id)), seeds)
    ]
    missing = champion_study.companions.find_missing(wanted)
    return CompanionRuns(champion_study.study, missing), champion_study.estimate_device_hours(missing)


def _make_dense_runs(champion_study: ChampionStudy, trial: Trial, seeds: int) -> list[Companion]:
    first_seed = champion_study.study.first_fresh_seed
    dense_trial = replace_fields(trial, {**UNPRUNED_FIELDS, **CONTROLS_OFF_FIELDS})
    return [
        Companion(replace_fields(dense_trial, {"seed": first_seed + offset}), trial.key, {"arm": DENSE_ARM})
        for offset in range(seeds)
    ]
