"""Dense companions: what the networks of a study reach with nothing pruned."""

from forcetune import analysis, tracking
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.twins import changed
from forcetune.results import DENSE
from forcetune.spec import Companion, CompanionRuns, Trial

UNPRUNED = {"method": "random", "density": 1.0, "small_dense": None, "layers_from": None}
UNCONTROLLED = {"invert": False, "shuffle": False, "reinit": False}


def missing_dense_runs(study: str, seeds: int) -> tuple[CompanionRuns, float]:
    """The dense runs that a study lacks, and the device hours that they take, if each takes what its trial took.

    Each network of the study unpruned, with the settings of its most accurate trial and so many fresh seeds. Settings
    that were found for a pruned network need not be the dense one's best: it may reach more.
    Raises InputError where no trial was trained to its end.
    """
    bench = ChampionStudy(study)
    network = [name for name in analysis.NETWORK if name in bench.table]
    best = [analysis.top(group, 1) for _, group in bench.table.groupby(network, dropna=False)]
    runs = [run_id for rows in best for run_id in rows["run_id"]]
    wanted = [run for run_id in runs for run in _runs(bench, Trial(**tracking.trial_fields(run_id)), seeds)]
    missing = bench.companions.lacks(wanted)
    return CompanionRuns(bench.study, missing), bench.device_hours(missing)


def _runs(bench: ChampionStudy, trial: Trial, seeds: int) -> list[Companion]:
    first = bench.study.first_fresh_seed
    dense = changed(trial, {**UNPRUNED, **UNCONTROLLED})
    return [Companion(changed(dense, {"seed": first + n}), trial.key, {"arm": DENSE}) for n in range(seeds)]
