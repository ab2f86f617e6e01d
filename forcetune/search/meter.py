"""Meters of a driver: trials by outcome, latencies, backlog and hypervolume, for those who watch a cluster."""


class Meter:
    """A meter that counts nothing: the progress line of a search on one machine shows enough."""

    def count_trial(self, outcome: str) -> None:
        """Count a trial that has ended with this outcome."""

    def count_device_hours(self, device: str, hours: float) -> None:
        """Count the device hours of an attempt that is over, under the name of its device."""

    def observe_ask(self, seconds: float) -> None:
        """Record how long a proposal and its row in the ledger took."""

    def observe_log(self, seconds: float) -> None:
        """Record how long it took to log in MLflow what one trial had due."""

    def observe_progress(self, backlog: int, hypervolume: float | None) -> None:
        """Record how far the study is.

        Args:
            backlog: The number of trials of which MLflow lacks something.
            hypervolume: What the front covers; None where it is not known.
        """
