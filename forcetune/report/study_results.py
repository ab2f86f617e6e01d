"""The results of a study as Python and notebooks have them: tables, the front, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape

import pandas as pd
from plotly.graph_objects import Figure as PlotlyFigure  # type: ignore[import-untyped]

from forcetune import analysis
from forcetune.report import numbers, words
from forcetune.report.evidence import gather
from forcetune.report.notebook import make_figures
from forcetune.report.results import Results


@dataclass(frozen=True, eq=False, repr=False)
class StudyResults:
    """The results of a study at one moment; in a notebook it shows itself as the table of the front.

    Attributes:
        study: The name of the study.
        stored: The trials and the companions of the study.
        end_reason: Why the search ended early; None where all trials were run.
    """

    study: str
    stored: Results
    end_reason: str | None = None

    @property
    def trials(self) -> pd.DataFrame:
        """The trials, as `load_results` returns them."""
        return self.stored.trials

    @cached_property
    def front(self) -> pd.DataFrame:
        """The rows of the trials on the front, by rising sparsity."""
        return analysis.best(self.trials)

    def figures(self) -> dict[str, PlotlyFigure]:
        """Draw the figures of the study's page, each of which shows itself in a notebook.

        Learning curves, layers and verdicts are read from the MLflow store.

        Returns:
            The figures by name, those for which the study has data: `main` (every trial and the front, by sparsity),
            `objectives`, `methods`, `iterations`, `layers` (then `layers1`, ... where the front has several networks),
            `growth` (the hypervolume), `curves` (learning curves) and `forest` (champions against random pruning).

        Raises:
            InputError: No trial of the study has ended.
        """
        return make_figures(gather(self.study, self.stored))

    def __repr__(self) -> str:
        return f"<StudyResults of {self._summarize()}>"

    def _repr_html_(self) -> str:
        """Return the front as a table in HTML, which a notebook shows."""
        summary = f"<p>{escape(self._summarize())}</p>"
        if not len(self.front):
            return summary
        return f"{summary}{words.tabulate_front(numbers.prepare_trials(self.trials)).to_html()}"

    def _summarize(self) -> str:
        end = f"; {self.end_reason}" if self.end_reason else ""
        return f"{self.study}: {len(self.trials)} trials, {len(self.front)} on the front{end}"
