"""What a driver counts for whoever watches a cluster: trials by outcome, latencies, backlog and hypervolume."""

from typing import Any

LATENCIES = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]  # bounds of the histograms, in seconds


class Meter:
    """Counts nothing: a search on one machine is watched by its own progress."""

    def ended(self, outcome: str) -> None:
        """A trial has ended."""

    def asked(self, seconds: float) -> None:
        """A proposal, and its row in the ledger, took so long."""

    def logged(self, seconds: float) -> None:
        """What was due of one trial took so long on its way to MLflow."""

    def stands(self, backlog: int, hypervolume: float | None) -> None:
        """Trials of which MLflow lacks something, and what the front covers."""


class RayMeter(Meter):
    """Counts in Ray's metrics, which Prometheus reads as ray_forcetune_...; every one has the tag `study`."""

    def __init__(self, study: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        def made(kind: Any, name: str, description: str, *tags: str, **options: Any) -> Any:
            metric = kind(f"forcetune_{name}", description, tag_keys=("study", *tags), **options)
            metric.set_default_tags({"study": study})
            return metric

        self._trials = made(Counter, "trials", "trials that have ended", "outcome")
        self._asks = made(Histogram, "ask_seconds", "a proposal and its row in the ledger", boundaries=LATENCIES)
        self._logs = made(Histogram, "log_seconds", "what is due of a trial, to MLflow", boundaries=LATENCIES)
        self._backlog = made(Gauge, "outbox_backlog", "trials of which MLflow lacks something")
        self._hypervolume = made(Gauge, "hypervolume", "what the front covers")

    def ended(self, outcome: str) -> None:
        self._trials.inc(1, {"outcome": outcome})

    def asked(self, seconds: float) -> None:
        self._asks.observe(seconds)

    def logged(self, seconds: float) -> None:
        self._logs.observe(seconds)

    def stands(self, backlog: int, hypervolume: float | None) -> None:
        self._backlog.set(backlog)
        if hypervolume is not None:
            self._hypervolume.set(hypervolume)
