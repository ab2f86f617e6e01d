"""A study that is there: asked for its best configurations and for what they took; written as a page."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import INTERRUPTED, address_option, main, priority_option
from forcetune.cli.running import outcomes, say_failed
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.results import Results
    from forcetune.spec import Priority

EVERY = 2.0  # seconds between two looks at a study that is watched


@dataclass(frozen=True)
class Question:
    """What is asked of studies: of the trials that meet the conditions the front, or what is picked."""

    conditions: Sequence[str]
    by: str | None
    knee: bool
    within: float | None
    top: int | None

    @property
    def asks_for_front(self) -> bool:
        """Whether the whole front of a study is asked for."""
        return not (self.conditions or self.by or self.knee or self.top) and self.within is None

    @property
    def shown(self) -> list[str]:
        """Fields that the question names."""
        from forcetune.analysis import CONDITION

        named = [found[1] for condition in self.conditions if (found := CONDITION.fullmatch(condition))]
        return [*([self.by] if self.by else []), *named]

    def answer(self, known: Results) -> pd.DataFrame:
        """The rows that answer it, with the controls that beat them, as `analysis.beaten` says.

        Raises InputError where dense runs are asked for and missing.
        """
        from forcetune import analysis

        chosen = analysis.where(known.trials, self.conditions)
        chosen.attrs = known.trials.attrs

        def pick(rows: pd.DataFrame) -> pd.DataFrame:
            return self._pick(rows, known)

        rows = analysis.each(chosen, self.by, pick) if self.by else pick(chosen)
        answer = rows.join(analysis.beaten(rows, known.trials))
        answer.attrs = known.trials.attrs
        return answer

    def _pick(self, chosen: pd.DataFrame, known: Results) -> pd.DataFrame:
        from forcetune import analysis

        if self.within is not None:
            return analysis.near_dense(chosen, _dense(known, self.within), self.within)
        if self.top is not None:
            return analysis.top(chosen, self.top)
        front = analysis.best(chosen)
        return analysis.knee(front) if self.knee else front


@main.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@click.option("--min-sparsity", type=click.FloatRange(0, 1), help="fraction of weights removed, at least")
@click.option("--min-accuracy", type=click.FloatRange(0, 1), help="validation accuracy, at least")
@click.option("--method", help="trials of this method alone")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="trials that meet it alone, as 'macs<10M', 'effective_density<=0.5%', 'model=mlp,lenet5'; more than once: all",
)
@click.option("--by", metavar="FIELD", help="for each value of it apart: method, model, study, ...")
@click.option("--knee", is_flag=True, help="of the front the point where the trade turns")
@click.option(
    "--within", type=click.FloatRange(0), metavar="POINTS", help="the sparsest within so many points of dense"
)
@click.option("--top", type=click.IntRange(1), help="the most accurate in place of the front")
@click.option("--dense", type=click.IntRange(1), metavar="SEEDS", help="first run the networks with nothing pruned")
@click.option("--effect", multiple=True, metavar="FIELD", help="what its values change at equal density")
@click.option("--importance", is_flag=True, help="how much each field has to do with each objective")
@click.option("--json", "as_json", is_flag=True, help="one array of objects, the front sorted by sparsity")
@click.option("--csv", "as_csv", is_flag=True, help="as CSV")
@click.option("--watch", is_flag=True, help="follow a search that runs, until it ends")
@address_option
@priority_option
def best(
    studies: tuple[str, ...],
    min_sparsity: float | None,
    min_accuracy: float | None,
    method: str | None,
    where: tuple[str, ...],
    by: str | None,
    knee: bool,
    within: float | None,
    top: int | None,
    dense: int | None,
    effect: tuple[str, ...],
    importance: bool,
    as_json: bool,
    as_csv: bool,
    watch: bool,
    address: str | None,
    priority: Priority,
) -> None:
    """Answer questions about finished trials, from MLflow alone: which configuration, why, at what cost.

    Without options, the front of STUDY; of several, the front of all together.
    """
    from forcetune import results

    why: dict[str, object] = {"--effect": effect, "--importance": importance}
    for others in ({"--knee": knee, "--within": within, "--top": top}, {"--by": by}, {"--watch": watch}):
        _at_most_one({**others, **why})
    _at_most_one({"--json": as_json, "--csv": as_csv, "--watch": watch})
    _at_most_one({"--dense": dense, "--watch": watch})
    asked = {"sparsity>=": min_sparsity, "val_accuracy>=": min_accuracy, "method=": method}
    conditions = [*(f"{name}{value}" for name, value in asked.items() if value is not None), *where]
    question = Question(conditions, by, knee, within, top)
    if watch:
        _watch(studies, question)
        return
    known = _finished(results.read(*studies))
    if dense and _run_dense(studies, dense, address, priority, quiet=as_json or as_csv):
        known = results.read(*studies)
    if effect or importance:
        _explain(known.trials, conditions, effect, as_json, as_csv)
    elif as_json or as_csv:
        _plain(question.answer(known), as_csv)
    else:
        _print(known, question)
        if said := say_failed(known.trials):
            click.echo(said)


@main.command()
@click.argument("study")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file (report-STUDY.html)")
def report(study: str, out: Path | None) -> None:
    """Write STUDY as one page that opens without a network, and keep it in MLflow with the study's run."""
    from forcetune import report as room

    click.echo(f"page: {room.write(study, out)}")


def print_front(known: Results) -> None:
    """A study's front, as `best` prints it."""
    _print(known, Question([], None, knee=False, within=None, top=None))


def _print(known: Results, question: Question) -> None:
    from forcetune import analysis, show

    table, found = known.trials, question.answer(known)
    if found.empty:
        click.echo(f"{_nothing(question)}; {outcomes(table)}")
        return
    show.front(found, question.shown)
    click.echo(_summary(table, question))
    if question.asks_for_front:
        show.controls(table, found)
    reached = analysis.unpruned(known.dense, "val_accuracy")
    if question.within is None and len(reached):
        click.echo(show.dense(reached))
    click.echo(show.costs(found, table))


def _nothing(question: Question) -> str:
    if question.knee:
        return "a front of fewer than three points has no knee"
    if question.within is not None:
        return f"no trained trial that meets this is within {question.within:g} points of dense"
    return "no trained trial meets this"


def _summary(table: pd.DataFrame, question: Question) -> str:
    what = "front"
    if question.knee:
        what = "knee of the front"
    elif question.within is not None:
        what = f"sparsest within {question.within:g} points of dense"
    elif question.top is not None:
        what = "most accurate"
    return f"{what} of {outcomes(table)}"


def _plain(found: pd.DataFrame, as_csv: bool) -> None:
    from forcetune import show
    from forcetune.times import iso

    found = found.copy()
    for name in found.columns.intersection(["started", "ended"]):
        found[name] = [None if ms is None or ms != ms else iso(ms / 1000) for ms in found[name]]
    if as_csv:
        click.echo(found.to_csv(index=False), nl=False)
    else:
        click.echo(json.dumps([show.present(row) for row in found.to_dict("records")], indent=1))


def _explain(
    table: pd.DataFrame, conditions: Sequence[str], fields: Sequence[str], as_json: bool, as_csv: bool
) -> None:
    """Effects of fields, or the importance of all."""
    import pandas as pd

    from forcetune import analysis, show

    chosen = analysis.where(table, conditions)
    chosen.attrs = table.attrs
    if fields:
        found = pd.concat([analysis.effects(chosen, field) for field in fields], ignore_index=True)
        _plain(found, as_csv) if as_json or as_csv else show.effects(found)
        return
    from forcetune import search

    if len(table.attrs["studies"]) > 1:
        raise InputError("--importance is of one study: the spaces of several are not the same")
    shares = search.importance(chosen)
    _plain(shares.reset_index(), as_csv) if as_json or as_csv else show.importance(shares)


def _run_dense(studies: Sequence[str], seeds: int, address: str | None, priority: Priority, quiet: bool) -> bool:
    """Run what is missing; whether anything was."""
    from forcetune import baseline, show

    ran = False
    for study in studies:
        errand, hours = baseline.dense_errand(study, seeds)
        if not errand.companions:
            continue
        click.echo(f"{len(errand.companions)} dense runs of {study}, about {hours:.2g} device hours", err=quiet)
        try:
            ending = baseline.sender(show.console(error=quiet), priority, address)(errand)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; the same command goes on where it was", err=True)
            sys.exit(INTERRUPTED)
        ran = True
        if ending:
            click.echo(ending, err=quiet)
    return ran


def _dense(known: Results, points: float) -> pd.DataFrame:
    runs = known.dense
    if runs.empty:
        names = " ".join(known.trials.attrs["studies"])
        raise InputError(
            f"nothing was run of {names} with all weights: `forcetune best {names} --within {points:g} --dense 3` "
            "does so first, with three seeds"
        )
    return runs


def _finished(known: Results) -> Results:
    """The same. Raises InputError where none of the trials has ended."""
    table = known.trials
    if not len(table) or not table["outcome"].notna().any():
        raise InputError(f"{', '.join(table.attrs['studies'])}: no trial is finished yet; {outcomes(table)}")
    return known


def _at_most_one(options: Mapping[str, object]) -> None:
    """Raise InputError where more than one of these options was given."""
    given = [name for name, value in options.items() if value not in (None, ()) and value is not False]  # 0 is given
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} ask for different things; allowed: one of {', '.join(options)}")


def _watch(studies: Sequence[str], question: Question) -> None:
    """Show the answer as it changes, until no search says that it runs."""
    from forcetune import results, show

    try:
        show.follow(_changes(studies, question), question.shown)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    _print(_finished(results.read(*studies)), question)


def _changes(studies: Sequence[str], question: Question) -> Iterator[tuple[pd.DataFrame, str]]:
    """The answer now, and whenever a trial has begun or ended, with what it is of."""
    from forcetune import results

    before = None
    while True:
        known = results.read(*studies)
        table = known.trials
        if (told := outcomes(table)) != before:
            before = told
            ended = len(table) and table["outcome"].notna().any()
            found = question.answer(known) if ended else table.iloc[:0]
            yield found, f"{time.strftime('%H:%M:%S')}  {len(found)} points, {_summary(table, question)}"
        if table.attrs["state"] != "RUNNING":
            return
        time.sleep(EVERY)
