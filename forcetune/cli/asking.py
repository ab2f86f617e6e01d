"""The commands that answer from finished trials: `best` asks questions, `report` writes a study as a page."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import INTERRUPTED, main
from forcetune.cli.options import parse_sparsity, print_json, print_rows, require_at_most_one
from forcetune.cli.running import describe_failures, describe_outcomes
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.report.results import Results

WATCH_INTERVAL_S = 2.0  # between two reads of a study that is watched


@dataclass(frozen=True)
class Question:
    """A question about finished trials: conditions on the trials, and which of the remaining ones to select.

    Without `within` and `top` it selects the front.

    Attributes:
        conditions: Conditions that a trial has to meet, as `analysis.where` reads them.
        by: A field; the question is answered separately for each of its values. None: once, for all trials.
        knee: Whether only the knee of the front is selected.
        within: Select the sparsest trial within this many points of the dense network's accuracy.
        top: Select this many of the most accurate trials.
    """

    conditions: Sequence[str] = ()
    by: str | None = None
    knee: bool = False
    within: float | None = None
    top: int | None = None

    @property
    def is_whole_front(self) -> bool:
        """Return whether the question selects the whole front of all trials."""
        return not (self.conditions or self.by or self.knee or self.top) and self.within is None

    @property
    def named_fields(self) -> list[str]:
        """The fields that the question names."""
        from forcetune.analysis import CONDITION_PATTERN

        fields = [match[1] for condition in self.conditions if (match := CONDITION_PATTERN.fullmatch(condition))]
        return [*([self.by] if self.by else []), *fields]

    def select(self, study_results: Results) -> Results:
        """Select the rows that answer the question, with the columns of `analysis.find_beating_controls`.

        Args:
            study_results: The trials and the companions of one study or of several.

        Returns:
            The results with the selected rows of the trials.

        Raises:
            InputError: Dense runs are needed and missing, or a condition or a field is unknown.
        """
        from forcetune import analysis

        candidates = analysis.where(study_results.trials, self.conditions)
        pick = partial(self._select, study_results)
        rows = analysis.ask_by_value(candidates, self.by, pick) if self.by else pick(candidates)
        beating = analysis.find_beating_controls(rows, study_results.trials, study_results.objectives)
        return replace(study_results, trials=rows.join(beating))

    def _select(self, study_results: Results, candidates: pd.DataFrame) -> pd.DataFrame:
        from forcetune import analysis

        if self.within is not None:
            return analysis.near_dense(candidates, _require_dense_runs(study_results, self.within), self.within)
        if self.top is not None:
            return analysis.top(candidates, study_results.objectives, self.top)
        front = analysis.front(candidates, study_results.objectives)
        return analysis.knee(front, study_results.objectives) if self.knee else front


@main.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@click.option(
    "--min-sparsity", type=click.FloatRange(0, 1), help="only trials with at least this fraction of weights removed"
)
@click.option("--min-accuracy", type=click.FloatRange(0, 1), help="only trials with at least this validation accuracy")
@click.option("--method", help="only trials of this method")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="only trials that meet this condition, such as 'macs<10M', 'effective_density<=0.5%', 'model=mlp,lenet5'; "
    "several conditions: trials that meet all of them",
)
@click.option("--by", metavar="FIELD", help="answer separately for each value of this field: method, model, study, ...")
@click.option(
    "--knee", is_flag=True, help="only the point of the front beyond which one objective costs most of the others"
)
@click.option(
    "--within",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="the sparsest network within this many points of the dense network's accuracy",
)
@click.option(
    "--at",
    metavar="SPARSITY",
    help="the configuration and the accuracy that are probable at a sparsity that was not run, such as 97.5%",
)
@click.option("--top", type=click.IntRange(1), help="this many of the most accurate trials, instead of the front")
@click.option(
    "--effect", multiple=True, metavar="FIELD", help="how the values of this field differ in accuracy at equal density"
)
@click.option("--importance", is_flag=True, help="how important each field is for each objective")
@click.option("--json", "as_json", is_flag=True, help="print JSON: one array of objects, the front sorted by sparsity")
@click.option("--csv", "as_csv", is_flag=True, help="print CSV")
@click.option("--watch", is_flag=True, help="follow a running search until it ends")
def best(
    studies: tuple[str, ...],
    min_sparsity: float | None,
    min_accuracy: float | None,
    method: str | None,
    where: tuple[str, ...],
    by: str | None,
    knee: bool,
    within: float | None,
    at: str | None,
    top: int | None,
    effect: tuple[str, ...],
    importance: bool,
    as_json: bool,
    as_csv: bool,
    watch: bool,
) -> None:
    """Answer questions about finished trials: which configuration is best, why, and at what cost.

    It reads only MLflow. Without options it prints the front of STUDY; for several studies, their common front.
    """
    from forcetune.report import results

    explanation_options: dict[str, object] = {"--effect": effect, "--importance": importance, "--at": at}
    for selection_options in ({"--knee": knee, "--within": within, "--top": top}, {"--by": by}, {"--watch": watch}):
        require_at_most_one({**selection_options, **explanation_options})
    require_at_most_one({"--json": as_json, "--csv": as_csv, "--watch": watch})
    option_conditions = {"sparsity>=": min_sparsity, "val_accuracy>=": min_accuracy, "method=": method}
    conditions = [*(f"{name}{value}" for name, value in option_conditions.items() if value is not None), *where]
    question = Question(conditions, by, knee, within, top)
    sparsity = parse_sparsity("--at", at)
    if watch:
        _watch(studies, question)
        return
    study_results = _require_finished(results.load(*studies))
    if sparsity is not None:
        _predict(study_results, conditions, sparsity, as_json, as_csv)
    elif effect or importance:
        _explain(study_results, conditions, effect, as_json, as_csv)
    elif as_json or as_csv:
        print_rows(question.select(study_results).trials, as_csv)
    else:
        _print_answer(study_results, question)
        if notice := describe_failures(study_results.trials):
            click.echo(notice)


@main.command()
@click.argument("study")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="file of the page (default: report-STUDY.html)"
)
def report(study: str, out: Path | None) -> None:
    """Write a report of STUDY as one page that opens without a network, and store the page in MLflow too."""
    from forcetune import report as report_package

    click.echo(f"page: {report_package.write(study, out)}")


def print_front(study_results: Results) -> None:
    """Print a study's front, as `best` prints it."""
    _print_answer(study_results, Question())


def _print_answer(study_results: Results, question: Question) -> None:
    from forcetune import analysis
    from forcetune.cli import terminal

    table, selected = study_results.trials, question.select(study_results)
    if selected.trials.empty:
        click.echo(f"{_describe_no_match(question)}; {describe_outcomes(table)}")
        return
    terminal.front(selected, question.named_fields)
    click.echo(_summarize(table, question))
    if question.is_whole_front:
        terminal.controls(study_results, selected.trials)
    dense_accuracy = analysis.summarize_dense(study_results.dense, "val_accuracy")
    if question.within is None and len(dense_accuracy):
        click.echo(terminal.dense(dense_accuracy))
    click.echo(terminal.costs(selected.trials, study_results))


def _describe_no_match(question: Question) -> str:
    if question.knee:
        return "a front of fewer than three points has no knee"
    if question.within is not None:
        return f"no trained trial that meets these conditions is within {question.within:g} points of the dense network"
    return "no trained trial meets these conditions"


def _summarize(table: pd.DataFrame, question: Question) -> str:
    selection = "front"
    if question.knee:
        selection = "knee of the front"
    elif question.within is not None:
        selection = f"sparsest within {question.within:g} points of the dense network, out"
    elif question.top is not None:
        selection = "most accurate"
    return f"{selection} of {describe_outcomes(table)}"


def _explain(
    study_results: Results, conditions: Sequence[str], fields: Sequence[str], as_json: bool, as_csv: bool
) -> None:
    """Print the effects of some fields, or the importance of all fields."""
    import pandas as pd

    from forcetune import analysis
    from forcetune.cli import terminal

    candidates = analysis.where(study_results.trials, conditions)
    if fields:
        all_fields = study_results.fields
        effects = pd.concat([analysis.effects(candidates, field, all_fields) for field in fields], ignore_index=True)
        print_rows(effects, as_csv) if as_json or as_csv else terminal.effects(effects)
        return
    from forcetune.search.importance import importance

    if len(study_results.studies) > 1:
        raise InputError("--importance takes one study: several studies have different search spaces")
    shares = importance(replace(study_results, trials=candidates))
    print_rows(shares.reset_index(), as_csv) if as_json or as_csv else terminal.importance(shares)


def _predict(study_results: Results, conditions: Sequence[str], sparsity: float, as_json: bool, as_csv: bool) -> None:
    """Print what would probably be reached at a sparsity, with the values of the trials that meet the conditions."""
    import pandas as pd

    from forcetune import analysis
    from forcetune.analysis.dial import Dial
    from forcetune.cli import terminal

    if len(study_results.studies) > 1:
        raise InputError("--at takes one study: several studies have different search spaces")
    selected = analysis.where(study_results.trials, conditions).index if conditions else None
    dial = Dial(study_results.trials, study_results.reruns, study_results.fields, study_results.objectives)
    prediction = dial.predict(sparsity, selected)
    if as_json:
        print_json([vars(prediction)])
    elif as_csv:
        columns = {name: value for name, value in vars(prediction).items() if name != "configuration"}
        print_rows(pd.DataFrame([{**columns, **prediction.configuration}]), as_csv)
    else:
        click.echo(terminal.prediction(prediction))


def _require_dense_runs(study_results: Results, points: float) -> pd.DataFrame:
    """Return the dense runs. Raises InputError where there are none."""
    runs = study_results.dense
    if runs.empty:
        commands = " and ".join(f"`forcetune baseline {name} --dense 3`" for name in study_results.studies)
        raise InputError(
            f"--within {points:g}: there are no dense runs of {', '.join(study_results.studies)} to compare with; "
            f"first run {commands}, which trains each network with three seeds"
        )
    return runs


def _require_finished(study_results: Results) -> Results:
    """Return the results unchanged. Raises InputError where no trial has ended."""
    table = study_results.trials
    if not len(table) or not table["outcome"].notna().any():
        names = ", ".join(study_results.studies)
        raise InputError(f"{names}: no trial is finished yet; {describe_outcomes(table)}")
    return study_results


def _watch(studies: Sequence[str], question: Question) -> None:
    """Show the answer as it changes, until no search of these studies runs any more."""
    from forcetune.cli import terminal
    from forcetune.report import results

    try:
        terminal.follow(_changes(studies, question), question.named_fields)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    _print_answer(_require_finished(results.load(*studies)), question)


def _changes(studies: Sequence[str], question: Question) -> Iterator[tuple[Results, str]]:
    """Yield the answer and a summary of it now, and again whenever a trial has started or ended."""
    from forcetune.report import results

    previous_counts = None
    while True:
        study_results = results.load(*studies)
        table = study_results.trials
        if (outcome_counts := describe_outcomes(table)) != previous_counts:
            previous_counts = outcome_counts
            has_ended = len(table) and table["outcome"].notna().any()
            selected = question.select(study_results) if has_ended else replace(study_results, trials=table.iloc[:0])
            points = f"{len(selected.trials)} points"
            yield selected, f"{time.strftime('%H:%M:%S')}  {points}, {_summarize(table, question)}"
        if study_results.state != "RUNNING":
            return
        time.sleep(WATCH_INTERVAL_S)
