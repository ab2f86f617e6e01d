"""The results of a study as Python and notebooks have them: tables, the front, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from plotly.graph_objects import Figure as PlotlyFigure  # type: ignore[import-untyped]

from forcetune.report import numbers, words
from forcetune.report.evidence import gather
from forcetune.report.notebook import make_figures
from forcetune.report.results import Results


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StudyResults(Results):
    """The results of one study at one moment; in a notebook it shows itself as the table of the front.

    Attributes:
        end_reason: Why the search ended early; None where all trials were run.
    """

    end_reason: str | None = None

    @property
    def study(self) -> str:
        """The name of the study."""
        return self.studies[0]

    def figures(self) -> dict[str, PlotlyFigure]:
        """Draw the figures of the study's page, each of which shows itself in a notebook.

        Learning curves, layers and verdicts are read from the MLflow store.

        Returns:
            The figures by name, those for which the study has data: `main` (every trial and the front, by sparsity),
            `objectives`, `methods`, `iterations`, `layers` (then `layers1`, ... where the front has several networks),
            `growth` (the hypervolume), `curves` (learning curves), `trails` and `changes` (density, in all and by
            layer, of trials whose masks changed in training), and `forest` (champions against random pruning).

        Raises:
            InputError: No trial of the study has ended.
        """
        return make_figures(gather(self.study, self))

    def __repr__(self) -> str:
        return f"<StudyResults of {self._summarize()}>"

    def _repr_html_(self) -> str:
        """Return the front as a table in HTML, which a notebook shows."""
        summary = f"<p>{escape(self._summarize())}</p>"
        if not len(self.front):
            return summary
        return f"{summary}{words.tabulate_front(numbers.prepare_trials(self)).to_html()}"

    def _summarize(self) -> str:
        end = f"; {self.end_reason}" if self.end_reason else ""
        return f"{self.study}: {len(self.trials)} trials, {len(self.front)} on the front{end}"
