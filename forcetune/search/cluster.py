"""Ray: a local one for this search or the cluster it is told, with Tune placing trials on actors that live on."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from forcetune.errors import InputError
from forcetune.search.driver import Driver
from forcetune.search.worker import Assignment, execute
from forcetune.spec import Resources


@contextmanager
def connected() -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, or a Ray of this process alone that listens on loopback only."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS is {address}, the address for jobs: `forcetune submit` sends a study there. To search from "
            "this process unset it (a local Ray is started) or give a cluster's own address, host:port"
        )
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise InputError(f"RAY_ADDRESS is {address}, and no Ray cluster answers there: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def slots(resources: Resources) -> int:
    """Trials that fit at once, at most `concurrent`. Raises InputError where not even one fits."""
    have = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(
        min(
            int(node.get("CPU", 0) / resources.cpus + 1e-9),
            int(node.get("GPU", 0) / resources.gpus + 1e-9) if resources.gpus else 10**6,
        )
        for node in nodes
    )
    if fit < 1:
        raise InputError(
            f"resources: a trial asks for {resources.cpus:g} cpus and {resources.gpus:g} gpus, and no node has them; "
            f"Ray has {have.get('CPU', 0):g} cpus and {have.get('GPU', 0):g} gpus on {len(nodes)} nodes"
        )
    return min(fit, resources.concurrent or fit)


class Worker(tune.Trainable):
    """An actor that runs one trial after the other; a step is an epoch.

    Tune may set up a second actor for a trial that a waiting one then takes, so nothing happens before a step.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._epochs: Iterator[dict[str, Any]] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._epochs = None
        return True

    def step(self) -> dict[str, Any]:
        if self._epochs is None:
            self._epochs = execute(Assignment(**self.config))
        metrics = next(self._epochs)
        return {**metrics, "done": "outcome" in metrics}


def run(
    driver: Driver,
    resources: Resources,
    concurrent: int,
    worker: type[tune.Trainable] = Worker,
    reuse_actors: bool = True,
) -> None:
    """Hand the driver's trials to actors until it has no more; `reuse_actors` as Tune's own."""
    # Tune asks a searcher for one trial at a time unless told otherwise: the second actor would be started
    # only when the first has a trial, and a trial that ends before that takes the second's place
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it misses its own per-trial files
    folder = tempfile.mkdtemp(prefix="forcetune-tune-")
    try:
        tune.Tuner(
            tune.with_resources(worker, _request(resources)),
            tune_config=tune.TuneConfig(
                search_alg=DriverSearcher(driver, concurrent),
                num_samples=10**9,
                reuse_actors=reuse_actors,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class DriverSearcher(Searcher):
    """Tune's questions put to the driver; all state is in the ledger."""

    def __init__(self, driver: Driver, concurrent: int) -> None:
        super().__init__()
        self._driver = driver
        self._concurrent = concurrent
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._driver.running >= self._concurrent:
            return None
        assignment = self._driver.issue()
        if assignment is None:
            return Searcher.FINISHED if self._driver.finished else None
        self._numbers[trial_id] = assignment.number
        return asdict(assignment)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._driver.report(self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._driver.end(self._numbers[trial_id], None if error else result)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for the copy that Tune writes of its searcher: what it would save stands in the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


def _request(resources: Resources) -> dict[str, float]:
    return {"cpu": resources.cpus, "gpu": resources.gpus}
