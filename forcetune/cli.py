"""The command line: one function a command; heavy imports inside the functions."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from forcetune import __version__
from forcetune.errors import HeldError, InputError, StoppedError

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.jobs import Job
    from forcetune.spec import Priority, Study, Trial

FAILED, REFUSED, HELD, INTERRUPTED = 1, 2, 4, 130
EXIT_CODES: dict[type[Exception], int] = {InputError: REFUSED, HeldError: HELD, StoppedError: FAILED}


class _Commands(click.Group):
    """What ends a command becomes one paragraph on standard error and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except tuple(EXIT_CODES) as error:
            click.echo(f"forcetune: {error}", err=True)
            sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with suppress(OSError):  # standard error may lie on that disk
                click.echo(f"forcetune: a disk is full ({error}); with room on it the same command goes on", err=True)
            sys.exit(FAILED)


class _WithFields(click.Command):
    """A command with an option for every field of a trial but those in `without` and those that it has itself."""

    without: tuple[str, ...] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from forcetune.spec import Trial  # only when such a command runs: the others are quicker without pydantic

        own = super().get_params(ctx)
        known = {parameter.name for parameter in own} | {*self.without}
        fields = {name: info for name, info in Trial.model_fields.items() if name not in known}
        options = [_option(name, info.annotation, info.description or "") for name, info in fields.items()]
        return [*own, *options]


class _Prune(_WithFields):
    without = (
        *("screen", "epochs", "batch_size", "lr", "lr_schedule"),
        *("optimizer", "momentum", "weight_decay", "clip_norm"),
    )


class _Compare(_WithFields):
    without = ("method", "density", "seed")


def _option(name: str, annotation: Any, description: str) -> click.Option:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    if get_origin(annotation) is Literal:
        kinds = [annotation]
    kind = kinds[0]
    flag = f"--{name.replace('_', '-')}"
    if get_origin(kind) is Literal:
        return click.Option([flag], type=click.Choice(get_args(kind)), help=description)
    if kind is bool:
        return click.Option([flag], is_flag=True, default=None, help=description)
    return click.Option([flag], type=kind, help=description)


def _number_or_word(text: str) -> float | str:
    """What is no number is left to the study, which says what is allowed."""
    try:
        return float(text)
    except ValueError:
        return text


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Search the sparsest network that still learns, before it is trained."""


@main.command()
@click.argument("what", metavar="FILE|MODEL")
@click.option("--dataset", help="whose samples MODEL takes")
@click.option("--data-root", help="folder of the data set's files, where it needs one")
@click.option("--input", "input_shape", help="shape of MODEL's samples without a data set (3x32x32)")
@click.option("--classes", type=click.IntRange(1), help="its classes without a data set (10)")
@click.option("--width", type=click.IntRange(1), help="channels of MODEL's first stage (its own)")
def check(
    what: str,
    dataset: str | None,
    data_root: str | None,
    input_shape: str | None,
    classes: int | None,
    width: int | None,
) -> None:
    """Validate the study in FILE and say what it would run and cost, or say what of MODEL can be pruned.

    Writes nothing but the predicted cost, which the search then holds against what it took.

    MODEL is a row of MODELS, torchvision:name, or package.module:function of your own.
    """
    from forcetune import models

    if what in models.MODELS or (":" in what and not Path(what).exists()):
        _check_model(what, _samples(dataset, data_root, input_shape, classes), width)
    elif given := [name for name, value in (("--dataset", dataset), ("--input", input_shape)) if value]:
        raise InputError(
            f"{given[0]} is for a model, and {what!r} is none; allowed: {', '.join(models.MODELS)}, "
            "torchvision:name, package.module:function"
        )
    else:
        from forcetune import search, show, spec

        study = spec.load(what)
        with _place(what):
            facts = search.check(study)
            show.study(study, facts)
            show.cost(search.predict(study))


_priority = click.option(
    "--priority",
    type=click.Choice(["normal", "low"]),
    default="normal",
    show_default=True,
    help="among the studies of a cluster; low: what the others leave",
)
_address = click.option("--address", metavar="URL", help="of the cluster's dashboard, http://HOST:8265 (RAY_ADDRESS)")
_as_json = click.option("--json", "as_json", is_flag=True, help="as JSON")


@main.command("search")
@click.argument("file")
@click.option("--fresh", is_flag=True, help="archive what is there of the study under a dated name, and start anew")
@_priority
def search_command(file: str, fresh: bool, priority: Priority) -> None:
    """Run the study in FILE here, or go on where it was, and print its front."""
    from forcetune import spec

    study = spec.load(file)
    found, ending = _searched(study, file, fresh, again=f"`forcetune search {file}`", priority=priority)
    _print_front(found, _best(found))
    _end(study, found, ending)


@main.command()
@click.argument("study")
@click.option("--min-sparsity", type=click.FloatRange(0, 1), help="fraction of weights removed, at least")
@click.option("--min-accuracy", type=click.FloatRange(0, 1), help="validation accuracy, at least")
@click.option("--method", help="trials of this method alone")
@click.option("--json", "as_json", is_flag=True, help="one array of objects, sorted by sparsity")
def best(study: str, min_sparsity: float | None, min_accuracy: float | None, method: str | None, as_json: bool) -> None:
    """Print the front of STUDY, from MLflow alone."""
    from forcetune import show

    found = _table(study)
    front = _best(found, min_sparsity=min_sparsity, min_accuracy=min_accuracy, method=method)
    if as_json:
        click.echo(json.dumps([show.present(row) for row in front.to_dict("records")], indent=1))
    else:
        _print_front(found, front)


@main.command()
@click.option("--database", metavar="URL", help="of a PostgreSQL for both stores (SQLite files in the current folder)")
@click.option("--cpus", type=click.FloatRange(0), help="cores for trials (the machine's)")
@click.option("--gpus", type=click.FloatRange(0), help="GPUs for trials (the machine's)")
@_as_json
def up(database: str | None, cpus: float | None, gpus: float | None, as_json: bool) -> None:
    """Start a Ray head and an MLflow server on this machine, for `submit`; leave them where they run."""
    from forcetune import service, show

    found, new = service.up(database, cpus, gpus)
    if as_json:
        click.echo(json.dumps({**found.variables, "storage": found.storage, "metrics": found.metrics}, indent=1))
    else:
        show.service(found, new)


@main.command()
@_as_json
def down(as_json: bool) -> None:
    """End what `up` started in the current folder, and nothing else; jobs that run are taken up after the next `up`."""
    from forcetune import service

    ended = service.down()
    told = f"ended: {', '.join(ended)}; the stores stay as they are" if ended else "nothing of `forcetune up` runs here"
    click.echo(json.dumps(ended) if as_json else told)


@main.command()
@click.argument("file")
@_address
@_priority
@click.option("--restarts", type=click.IntRange(0), default=3, show_default=True, help="of a driver that dies")
@click.option("--fresh", is_flag=True, help="archive what is there of the study under a dated name, and start anew")
@click.option("--wait", is_flag=True, help="follow the job's log, and exit with its exit code")
@_as_json
def submit(
    file: str, address: str | None, priority: Priority, restarts: int, fresh: bool, wait: bool, as_json: bool
) -> None:
    """Run the study in FILE as a job on a Ray cluster, or go on where it was; prints the job's id."""
    from forcetune import jobs

    job = jobs.submit(file, address, priority, restarts, fresh, say=lambda line: click.echo(line, err=True))
    _print_job(job, as_json)
    if wait:
        _follow(job.id, address)


@main.command("jobs")
@_address
@_as_json
def jobs_command(address: str | None, as_json: bool) -> None:
    """List the studies that run, or ran, as jobs on a Ray cluster."""
    from forcetune import jobs, show

    found = jobs.jobs(address, say=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps([vars(job) for job in found], indent=1))
    else:
        show.jobs(found)


@main.command()
@click.argument("job")
@_address
@click.option("--follow", is_flag=True, help="until the job ends")
@_as_json
def logs(job: str, address: str | None, follow: bool, as_json: bool) -> None:
    """Print what JOB has printed."""
    from forcetune import jobs

    for piece in _until_interrupted(jobs.logs(job, follow, address), job):
        click.echo(json.dumps({"job": job, "log": piece}) if as_json else piece, nl=as_json)


@main.command()
@click.argument("job")
@_address
@_as_json
def stop(job: str, address: str | None, as_json: bool) -> None:
    """Stop JOB; its trials in flight are handed back, and `resume` goes on with them."""
    from forcetune import jobs

    _print_job(jobs.stop(job, address), as_json)


@main.command()
@click.argument("job")
@_address
@_as_json
def resume(job: str, address: str | None, as_json: bool) -> None:
    """Go on with the study of JOB, which has ended, as a new job with the same code; prints its id."""
    from forcetune import jobs

    _print_job(jobs.resume(job, address), as_json)


@main.command(hidden=True)
@click.argument("file")
@click.option("--client", required=True)
@click.option("--restarts", type=click.IntRange(0), required=True)
@_priority
@click.option("--fresh", is_flag=True)
def supervise(file: str, client: str, restarts: int, priority: Priority, fresh: bool) -> None:
    """What a job runs: `search`, started again where it dies."""
    from forcetune.jobs import supervisor

    def complete() -> bool:
        from forcetune import search, spec

        return search.is_complete(spec.load(file))

    command = ["search", file, "--priority", priority]
    sys.exit(supervisor.supervise(command, client, restarts, complete, once=["--fresh"] if fresh else []))


@main.command()
@click.argument("study")
@click.option("--repair", is_flag=True, help="mend what disagrees, the ledger taken at its word")
def doctor(study: str, repair: bool) -> None:
    """Compare what Optuna, MLflow and the checkpoints say of STUDY; exit code 1 where they disagree."""
    from forcetune import search, show

    mended, left, holder = search.examine(study, repair)
    if holder:
        click.echo(f"{holder}; trials that run are left out")
    show.findings(mended, left)
    if left:
        sys.exit(FAILED)


@main.command(cls=_Prune)
@click.option("--trial", "run", help="id of a trial's run, as `best` prints it; other options change its fields")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file for the masks, as masks.npz")
def prune(run: str | None, out: Path | None, **given: Any) -> None:
    """Prune one network without a search, and print its density by layer."""
    from forcetune import pruning, show, tracking, trial

    if out and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")
    wanted = _one_trial({**(tracking.trial_fields(run) if run else {}), **_given(given)})
    with _users_code(wanted):
        trial.check(wanted)
        prepared = trial.prepare(wanted, fetch_masks=tracking.fetch_masks)
    show.masks(prepared, pruning.layer_table(prepared.masks))
    if out:
        pruning.save_masks(out, prepared.masks)
        click.echo(f"{out}: {sum(int(mask.sum()) for mask in prepared.masks.values())} weights kept")


@main.command(cls=_Compare)
@click.option("--methods", required=True, help="methods, with commas between; the random controls are always added")
@click.option("--densities", required=True, help="fractions of weights kept, with commas between")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="trials of each, seeds 0, 1, ...")
@click.option("--study", "name", help="the study's name (compare-MODEL-DATASET)")
@click.option("--out", type=click.Path(path_type=Path), default=".", help="folder of the files (the current one)")
@click.option("--cpus", type=float, help="cores a trial (1)")
@click.option("--gpus", metavar="NUMBER|auto", type=_number_or_word, help="GPUs a trial (0)")
@click.option("--concurrent", type=int, help="trials at once (as many as fit)")
@click.option("--fresh", is_flag=True, help="archive what is there of the study under a dated name, and start anew")
def compare(
    methods: str,
    densities: str,
    seeds: int,
    name: str | None,
    out: Path,
    cpus: float | None,
    gpus: float | str | None,
    concurrent: int | None,
    fresh: bool,
    **given: Any,
) -> None:
    """Compare methods with the random controls over sparsity: writes the grid study, runs it, prints the table.

    Run again with the same options it goes on where it was. Leaves NAME.yaml, NAME.csv, NAME.md and NAME.tex.
    """
    from forcetune import comparison, search, show, spec

    fields = _given(given)
    _demand(fields, "model", "dataset")
    if not _words(methods):
        raise InputError(f"--methods {methods}: allowed: names with commas between, as snip,force")
    name = name or "compare-{model}-{dataset}".format(**fields).replace(":", "-")
    resources = _given({"cpus": cpus, "gpus": gpus, "concurrent": concurrent})
    written = comparison.grid_study(name, _words(methods), _numbers("--densities", densities), seeds, fields, resources)
    study = spec.Study.from_dict(written)
    facts = search.check(study)
    file = comparison.write_study(out / f"{name}.yaml", written)
    found, ending = _searched(study, str(file), fresh, again="the same command")
    compared = comparison.compare(found, study.grid(), chance=1 / facts[0]["classes"])
    caption = comparison.caption(study, seeds)
    click.echo(caption)
    show.comparison(*comparison.side_by_side(compared))
    click.echo(comparison.LEGEND)
    click.echo("written: " + ", ".join(map(str, [file, *comparison.export(compared, caption, out / name)])))
    _end(study, found, ending)


def _print_job(job: Job, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(vars(job), indent=1))
    else:
        click.echo(job.id if job.state in ("pending", "running") else f"{job.id} {job.state}")


def _follow(job: str, address: str | None) -> None:
    """Print a job's log until it ends, and exit as it did."""
    from forcetune import jobs

    for piece in _until_interrupted(jobs.logs(job, True, address), job):
        click.echo(piece, nl=False, err=True)
    ended = jobs.get(job, address)
    sys.exit({"succeeded": 0, "stopped": INTERRUPTED}.get(ended.state, ended.exit_code or FAILED))


def _until_interrupted(pieces: Iterator[str], job: str) -> Iterator[str]:
    try:
        yield from pieces
    except KeyboardInterrupt:
        told = f"the job goes on; `forcetune logs {job} --follow` shows it, `forcetune stop {job}` stops it"
        click.echo(f"\n{told}", err=True)
        sys.exit(INTERRUPTED)


def _check_model(name: str, samples: tuple[tuple[int, ...], int], width: int | None) -> None:
    from forcetune import models, pruning, show

    show.network(name, *samples, pruning.inspect(models.build(name, *samples, width), *samples))


def _samples(
    dataset: str | None, data_root: str | None, input_shape: str | None, classes: int | None
) -> tuple[tuple[int, ...], int]:
    """The shape of a sample and the number of classes, from a data set or as they were given."""
    if dataset:
        from forcetune import data

        found = data.load(dataset, data_root)
        return found.input_shape, found.classes
    sizes = (input_shape or "3x32x32").split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {input_shape}: allowed: sizes with an x between, as 3x32x32")
    return tuple(map(int, sizes)), classes or 10


def _one_trial(fields: dict[str, Any]) -> Trial:
    from forcetune.spec import Study

    _demand(fields, "dataset", "model", "method", "density")
    return Study.from_dict({"study": "prune", "trial": fields}).make_trial({})


@contextmanager
def _users_code(wanted: Trial) -> Iterator[None]:
    """An error in code of the user's own is theirs to mend: said in one paragraph, with its place."""
    try:
        yield
    except Exception as error:
        own = [name for name in (wanted.method, wanted.model, wanted.dataset, wanted.saliency_loss) if ":" in name]
        if isinstance(error, InputError) or not own:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{' or '.join(own)} raised {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error


def _demand(fields: dict[str, Any], *names: str) -> None:
    missing = [f"--{name}" for name in names if name not in fields]
    if missing:
        raise InputError(f"{missing[0]} is missing; needed: {', '.join(f'--{name}' for name in names)}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise InputError(f"{option} {text}: allowed: numbers with commas between, as 0.1,0.05") from None


def _searched(
    study: Study, file: str, fresh: bool, again: str, priority: Priority = "normal"
) -> tuple[pd.DataFrame, str | None]:
    """The table of the study once it has run, and why it ended early; an interrupt says how to go on."""
    from forcetune import search, show

    try:
        with _place(file):
            ending = search.run(study, show.console(), fresh, priority)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; {again} goes on where it was", err=True)
        sys.exit(INTERRUPTED)
    return _table(study.study), ending


def _table(study: str) -> pd.DataFrame:
    from forcetune import analysis, tracking

    return analysis.with_seeds(tracking.table(study), tracking.reruns(study))


def _end(study: Study, found: pd.DataFrame, ending: str | None) -> None:
    """Say what was spared, and what is less than was asked for; exit with 1 where every trial failed."""
    if "steps_reused" in found and (reused := found["steps_reused"]).any():
        trials = f"{(reused > 0).sum()} of {len(found)} trials"
        click.echo(f"pruning steps taken over from another density: {reused.sum():.0f}, in {trials}")
    if ending:
        click.echo(f"{ending} ({len(found)} of {study.trials} trials)")
    elif len(found) < study.trials:
        click.echo(f"{study.trials} trials were asked for, and the study's space has no more than {len(found)}")
    failed = int((found["outcome"] == "failed").sum())
    if failed:
        click.echo(f"{failed} failed: the reason is in their runs, tag forcetune.reason and artifact error.json")
    if failed == len(found):
        sys.exit(FAILED)


@contextmanager
def _place(file: str) -> Iterator[None]:
    """Name the study file in what is refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _best(table: pd.DataFrame, **conditions: Any) -> pd.DataFrame:
    from forcetune import analysis

    return analysis.best(table, **conditions)


def _print_front(table: pd.DataFrame, front: pd.DataFrame) -> None:
    from forcetune import show

    if front.empty:
        click.echo(f"no trained trial meets this; {_outcomes(table)}")
        return
    show.front(front, table.attrs["objectives"])
    show.doubts(front)
    click.echo(f"front of {_outcomes(table)}")


def _outcomes(table: pd.DataFrame) -> str:
    if table.empty:
        return "no trials yet"
    counts = table["outcome"].fillna("running").value_counts()
    return f"{len(table)} trials: " + ", ".join(f"{count} {name}" for name, count in counts.items())
