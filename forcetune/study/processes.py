"""The checks of the number of processes that train a trial: keys that cannot be combined with it are refused."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from forcetune.study.problems import Problem, show_value

if TYPE_CHECKING:
    from forcetune.study.study import Study


def process_problems(study: "Study") -> Iterator[Problem]:
    """Yield a problem for each key that cannot be combined with the number of processes of a trial."""
    processes = study.resources.processes
    if processes == 1:
        yield from _single_process_problems(study)
        return
    if study.resources.gpus not in (0, processes):
        yield Problem(
            "resources.gpus",
            f"is {show_value(study.resources.gpus)}, but each of the {processes} `processes` of a trial has one whole "
            f"GPU or none; allowed: {processes} or 0",
        )
    if study.resources.compile:
        yield Problem(
            "resources.compile", f"a network that {processes} `processes` train is not compiled; allowed: processes: 1"
        )
    if study.train:
        yield Problem(
            "train",
            f"{study.train} does not know how to share a batch among {processes} `processes`; allowed: "
            "resources.processes: 1, in which your loop has all GPUs of a trial",
        )
    yield from _field_problems(study, processes)


def _single_process_problems(study: "Study") -> Iterator[Problem]:
    if study.resources.spread:
        yield Problem("resources.spread", "a trial has one process, which is on one node; allowed with `processes`")
    if False in study.list_values("sync_batch_norm"):
        yield Problem(
            "trial.sync_batch_norm",
            "false has no meaning where one process has the whole batch; allowed: true, or resources.processes: 2 or "
            "more",
        )


def _field_problems(study: "Study", processes: int) -> Iterator[Problem]:
    """Yield a problem for each field of the trials that several processes cannot have."""
    from forcetune.data.drawing import MIN_SHARE
    from forcetune.pruning import method_row

    if rules := [method for method in study.list_values("method") if method_row(method).rule]:
        yield Problem(
            "trial.method",
            f"masks that change while the network trains ({', '.join(rules)}) need one process so far; allowed: "
            "methods that prune at initialization, or resources.processes: 1",
        )
    smallest = min(study.list_values("batch_size"))
    if smallest < MIN_SHARE * processes:
        yield Problem(
            "trial.batch_size",
            f"{smallest} gives {processes} `processes` less than {MIN_SHARE} images each; allowed: "
            f"{MIN_SHARE * processes} or more",
        )
