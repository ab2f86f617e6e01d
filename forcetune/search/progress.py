"""What a search shows while it runs: a live block on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forcetune.analysis import non_dominated
from forcetune.search.ledger import TrialOutcome
from forcetune.spec import Study, Trial, method_label
from forcetune.times import duration

FRONT_ROWS = 12


class Progress:
    """Counts trials, keeps the front so far and estimates the time left; a context manager while it shows them."""

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        self._live: Live | None = None
        self._running: dict[int, tuple[Trial, int]] = {}  # and the last epoch
        self._outcomes: dict[str, int] = {}
        self._front: list[tuple[Trial, tuple[float, ...]]] = []
        self._done_here = 0
        self._clock: float | None = None  # since the first report: before it actors start

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def done(self) -> int:
        """Trials ended, by this driver or an earlier one."""
        return sum(self._outcomes.values())

    @property
    def front(self) -> list[tuple[float, ...]]:
        """The objectives' values of each point of the front so far."""
        return [values for _, values in self._front]

    @property
    def counted(self) -> str:
        """The same, of how many."""
        return f"{self.done} of {self._study.trials}"

    def known(self, trial: Trial, ended: TrialOutcome) -> None:
        """A trial that an earlier driver ended."""
        self._count(trial, ended)

    def started(self, number: int, trial: Trial) -> None:
        self._running[number] = (trial, 0)

    def reported(self, number: int, epoch: int) -> None:
        self._clock = self._clock or time.monotonic()
        if number in self._running:
            self._running[number] = (self._running[number][0], epoch)

    def waits(self) -> None:
        """Other studies have the whole cluster."""
        self._console.print(f"{self.counted} done, waits: others have the cluster", soft_wrap=True, highlight=False)

    def warn(self, text: str) -> None:
        """Tell what whoever watches should know at once."""
        self._console.print(text, soft_wrap=True, highlight=False)

    def handed_back(self, number: int) -> None:
        self._running.pop(number, None)

    def ended(self, number: int, trial: Trial, ended: TrialOutcome) -> None:
        self._running.pop(number, None)
        self._done_here += 1
        self._count(trial, ended)
        if not self._live:
            self._console.print(self._line(trial, ended), soft_wrap=True, highlight=False)

    def _count(self, trial: Trial, ended: TrialOutcome) -> None:
        self._outcomes[ended.outcome] = self._outcomes.get(ended.outcome, 0) + 1
        if ended.on_front and ended.values is not None:
            points = [*self._front, (trial, tuple(ended.values))]
            keep = non_dominated(np.array([values for _, values in points]), list(self._study.directions.values()))
            self._front = [point for point, kept in zip(points, keep, strict=True) if kept]

    def _left(self) -> str:
        """Time left, from what this driver has done of its own trials."""
        partly = sum(epoch / trial.epochs for trial, epoch in self._running.values())
        done_here = self._done_here + partly
        todo = self._study.trials - self.done - partly
        if not self._clock or done_here < 1:
            return "time left unknown yet"
        seconds = (time.monotonic() - self._clock) / done_here * max(todo, 0)
        return f"about {duration(seconds)} left"

    def _summary(self) -> str:
        others = {name: count for name, count in self._outcomes.items() if name != "trained"}
        told = f" ({', '.join(f'{count} {name}' for name, count in others.items())})" if others else ""
        return f"{self.counted} done{told}, {len(self._running)} running, front {len(self._front)}, {self._left()}"

    def _line(self, trial: Trial, ended: TrialOutcome) -> str:
        return f"{self._summary()} | {describe(trial)}: {_result(self._study, ended)}"

    def _render(self) -> Group:
        bar = Table.grid()
        bar.add_row(ProgressBar(total=self._study.trials, completed=self.done, width=60))
        running = [f"  {describe(trial)}: epoch {epoch}/{trial.epochs}" for trial, epoch in self._running.values()]
        return Group(
            Text(f"{self._study.study}: {self._summary()}", style="bold"),
            bar,
            *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in running),
            self._table(),
        )

    def _table(self) -> Table:
        ordered = sorted(self._front, key=lambda point: -point[0].density)
        part = f", its {FRONT_ROWS} sparsest of {len(ordered)} points" if len(ordered) > FRONT_ROWS else ""
        table = Table(title=f"front so far{part}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in self._study.objectives:
            table.add_column(name, justify="right")
        table.add_column("configuration", no_wrap=True)
        for trial, values in ordered[-FRONT_ROWS:]:
            table.add_row(*(f"{value:.4g}" for value in values), describe(trial))
        return table


def describe(trial: Trial) -> str:
    """A trial in a few words: method, controls, steps and sparsity."""
    fields = trial.fields()
    steps = f" T={fields['iterations']}" if "iterations" in fields else ""
    schedule = f" {fields['schedule']}" if "schedule" in fields else ""  # snip_mb has steps and none
    return f"{method_label(fields)}{steps}{schedule} at {1 - trial.density:.2%} sparsity"


def _result(study: Study, ended: TrialOutcome) -> str:
    if ended.values is None or not ended.on_front:
        return f"{ended.outcome}, {ended.reason}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(study.objectives, ended.values, strict=True))
