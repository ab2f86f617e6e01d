"""The progress of a search on the screen: a live block on a terminal or in a notebook, plain lines elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console, Group
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forcetune.analysis import non_dominated
from forcetune.formats import duration, format_sparsity
from forcetune.ledger.messages import TrialOutcome
from forcetune.search.printing import print_line
from forcetune.study import Study, Trial, method_label

FRONT_ROWS = 12  # of the live block, which must fit on a screen
REFRESH_INTERVAL_S = 0.5  # between two states of the live block


class _NotebookBlock(JupyterMixin):
    """A live block in the output of a notebook's cell; each new state takes the place of the last one.

    rich's own `Live` needs ipywidgets in a notebook, which Jupyter does not bring along.

    Args:
        render: Returns the newest state.
    """

    def __init__(self, render: Callable[[], Group]) -> None:
        from IPython.display import display

        self._render = render
        self._handle = display(self, display_id=True)
        self._last_refresh = time.monotonic()

    def __rich__(self) -> Group:
        return self._render()

    def refresh(self, at_once: bool = False) -> None:
        """Show the newest state, unless the last one has been shown for too short a time and `at_once` is not set."""
        if at_once or time.monotonic() - self._last_refresh >= REFRESH_INTERVAL_S:
            self._handle.update(self)
            self._last_refresh = time.monotonic()


@dataclass
class _RunningTrial:
    """A trial that runs, with the number of its epochs and the last one that has ended."""

    trial: Trial
    epochs: int
    epoch: int = 0


class Progress:
    """The counts of trials, the front so far and an estimate of the time left.

    As a context manager it shows a live block on a terminal or in a notebook; elsewhere it prints a line for each
    trial.

    Args:
        study: The study that is searched.
        console: The console that everything is shown on.
    """

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        self._live: Live | None = None
        self._notebook_block: _NotebookBlock | None = None
        self._running: dict[int, _RunningTrial] = {}
        self._outcome_counts: dict[str, int] = {}
        self._front: list[tuple[Trial, tuple[float, ...]]] = []
        self._done_here = 0
        self._first_report: float | None = None  # on the monotonic clock; until then the actors start

    def __enter__(self) -> "Progress":
        if self._console.is_jupyter:
            self._notebook_block = _NotebookBlock(self._render)
        elif self._console.is_terminal:
            refreshes_per_second = 1 / REFRESH_INTERVAL_S
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=refreshes_per_second
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        if self._notebook_block:
            self._notebook_block.refresh(at_once=True)

    @property
    def done(self) -> int:
        """The number of trials that have ended, by this driver or an earlier one."""
        return sum(self._outcome_counts.values())

    @property
    def front(self) -> list[tuple[float, ...]]:
        """The values of the objectives for each point of the front so far."""
        return [values for _, values in self._front]

    @property
    def done_of_total(self) -> str:
        """The number of trials that have ended and the number of trials of the study, as text."""
        return f"{self.done} of {self._study.trials}"

    def count(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Count a trial that has ended, with this driver or an earlier one."""
        self._outcome_counts[outcome.outcome] = self._outcome_counts.get(outcome.outcome, 0) + 1
        if outcome.on_front and outcome.values is not None:
            points = [*self._front, (trial, tuple(outcome.values))]
            is_on_front = non_dominated(
                np.array([values for _, values in points]), list(self._study.directions.values())
            )
            self._front = [point for point, is_kept in zip(points, is_on_front, strict=True) if is_kept]

    def start_trial(self, number: int, trial: Trial) -> None:
        """Add a trial to the running ones."""
        self._running[number] = _RunningTrial(trial, trial.total_epochs)
        self._refresh()

    def record_epoch(self, number: int, epoch: int, epochs: int | None = None) -> None:
        """Note the last epoch that a worker has reported of a trial; 0 before the first one.

        Args:
            number: The trial's number.
            epoch: The last epoch.
            epochs: The number of epochs of its training; None where it is known already.
        """
        self._first_report = self._first_report or time.monotonic()
        if number in self._running:
            running = self._running[number]
            running.epoch, running.epochs = epoch, epochs or running.epochs
            self._refresh()

    def report_wait(self, reason: str) -> None:
        """Print that the search waits, and for what."""
        print_line(self._console, f"{self.done_of_total} done; waiting: {reason}")

    def warn(self, text: str) -> None:
        """Print a warning that the user should see at once."""
        print_line(self._console, text)

    def remove_trial(self, number: int) -> None:
        """Remove a trial that was taken from its worker from the running ones."""
        self._running.pop(number, None)

    def end_trial(self, number: int, trial: Trial, outcome: TrialOutcome) -> None:
        """Count a trial that has ended, and print its line where there is no live block."""
        self._running.pop(number, None)
        self._done_here += 1
        self.count(trial, outcome)
        self._refresh()
        if not self._live and not self._notebook_block:
            print_line(self._console, f"{self._summary()} | {describe(trial)}: {_result(self._study, outcome)}")

    def _refresh(self) -> None:
        """Show the newest state in a notebook; on a terminal, a thread of rich does so."""
        if self._notebook_block:
            self._notebook_block.refresh()

    def _time_left(self) -> str:
        """Return the time left as text, estimated from the trials and epochs that this driver has completed."""
        partial_trials = sum(running.epoch / running.epochs for running in self._running.values())
        done_here = self._done_here + partial_trials
        trials_left = self._study.trials - self.done - partial_trials
        if not self._first_report or done_here < 1:
            return "time left not yet known"
        seconds = (time.monotonic() - self._first_report) / done_here * max(trials_left, 0)
        return f"about {duration(seconds)} left"

    def _summary(self) -> str:
        other_counts = {name: count for name, count in self._outcome_counts.items() if name != "trained"}
        details = f" ({', '.join(f'{count} {name}' for name, count in other_counts.items())})" if other_counts else ""
        return (
            f"{self.done_of_total} done{details}, {len(self._running)} running, front {len(self._front)}, "
            f"{self._time_left()}"
        )

    def _render(self) -> Group:
        bar = Table.grid()
        bar.add_row(ProgressBar(total=self._study.trials, completed=self.done, width=60))
        running = [
            f"  {describe(running.trial)}: epoch {running.epoch}/{running.epochs}" for running in self._running.values()
        ]
        return Group(
            Text(f"{self._study.study}: {self._summary()}", style="bold"),
            bar,
            *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in running),
            self._table(),
        )

    def _table(self) -> Table:
        ordered = sorted(self._front, key=lambda point: -point[0].density)
        limit_note = f", the {FRONT_ROWS} sparsest of {len(ordered)} points" if len(ordered) > FRONT_ROWS else ""
        table = Table(title=f"front so far{limit_note}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in self._study.objectives:
            table.add_column(name, justify="right")
        table.add_column("configuration", no_wrap=True)
        for trial, values in ordered[-FRONT_ROWS:]:
            table.add_row(*(f"{value:.4g}" for value in values), describe(trial))
        return table


def describe(trial: Trial) -> str:
    """Return a trial in a few words: method, controls, pruning steps, schedule and sparsity."""
    fields = trial.fields()
    steps = f" T={fields['iterations']}" if "iterations" in fields else ""
    schedule = f" {fields['schedule']}" if "schedule" in fields else ""  # snip_mb has steps and no schedule
    bound = " or more" if trial.prunes_channels else ""
    return f"{method_label(fields)}{steps}{schedule} at {format_sparsity(1 - trial.density)} sparsity{bound}"


def _result(study: Study, outcome: TrialOutcome) -> str:
    if outcome.values is None or not outcome.on_front:
        return f"{outcome.outcome}, {outcome.reason}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(study.objectives, outcome.values, strict=True))
