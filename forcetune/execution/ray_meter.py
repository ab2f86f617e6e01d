"""The meter of a driver on a cluster: Ray's metrics, which Prometheus reads."""

from typing import Any

from forcetune.search.meter import Meter

LATENCY_BOUNDS_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]  # of the histograms


class RayMeter(Meter):
    """A meter in Ray's metrics, which Prometheus reads as ray_forcetune_...; each metric has the tag `study`.

    Args:
        study: The name of the study.
    """

    def __init__(self, study: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        def make(kind: Any, name: str, description: str, *tags: str, **options: Any) -> Any:
            metric = kind(f"forcetune_{name}", description, tag_keys=("study", *tags), **options)
            metric.set_default_tags({"study": study})
            return metric

        self._trials = make(Counter, "trials", "trials that have ended", "outcome")
        self._device_hours = make(Counter, "device_hours", "device hours of attempts that are over", "device")
        self._asks = make(
            Histogram, "ask_seconds", "time of a proposal and its row in the ledger", boundaries=LATENCY_BOUNDS_S
        )
        self._logs = make(
            Histogram, "log_seconds", "time to log a trial's pending data in MLflow", boundaries=LATENCY_BOUNDS_S
        )
        self._backlog = make(Gauge, "outbox_backlog", "trials with data that MLflow does not have yet")
        self._hypervolume = make(Gauge, "hypervolume", "hypervolume of the front")

    def count_trial(self, outcome: str) -> None:
        """Count a trial that has ended, under its outcome."""
        self._trials.inc(1, {"outcome": outcome})

    def count_device_hours(self, device: str, hours: float) -> None:
        """Count device hours, under the name of the device."""
        if hours > 0:
            self._device_hours.inc(hours, {"device": device})

    def observe_ask(self, seconds: float) -> None:
        """Record the duration of a proposal."""
        self._asks.observe(seconds)

    def observe_log(self, seconds: float) -> None:
        """Record the duration of a request to MLflow."""
        self._logs.observe(seconds)

    def observe_progress(self, backlog: int, hypervolume: float | None) -> None:
        """Record how many trials MLflow lacks, and the hypervolume of the front."""
        self._backlog.set(backlog)
        if hypervolume is not None:
            self._hypervolume.set(hypervolume)
