"""The commands for pruning methods without a search: one network, or several methods side by side."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forcetune.cli.fields import Compare, Prune, drop_unset, number_or_word, parse_numbers, require_options, split_words
from forcetune.cli.group import main
from forcetune.cli.running import report_end, run_search
from forcetune.containment import contained
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.study import Trial


@main.command(cls=Prune)
@click.option("--trial", "run", help="id of a trial's run, as `best` prints it; other options change its fields")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file for the masks, such as masks.npz")
def prune(run: str | None, out: Path | None, **field_options: Any) -> None:
    """Prune one network without a search, and print the density of each layer."""
    from forcetune import pruning, show, tracking, trial

    if out and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")
    requested_trial = _make_trial({**(tracking.load_trial_fields(run) if run else {}), **drop_unset(field_options)})
    with _locating_user_errors(requested_trial), contained():
        trial.check(requested_trial)
        prepared = trial.prepare(requested_trial, fetch_masks=tracking.fetch_masks)
    show.masks(prepared, pruning.layer_table(prepared.masks))
    if out:
        pruning.save_masks(out, prepared.masks)
        click.echo(f"{out}: {sum(int(mask.sum()) for mask in prepared.masks.values())} weights kept")


@main.command(cls=Compare)
@click.option("--methods", required=True, help="methods, separated by commas; the random controls are always added")
@click.option("--densities", required=True, help="fractions of weights kept, separated by commas")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="trials for each method and density, with seeds 0, 1, ...",
)
@click.option("--study", "name", help="name of the study (default: compare-MODEL-DATASET)")
@click.option(
    "--out", type=click.Path(path_type=Path), default=".", help="folder of the files (default: the current one)"
)
@click.option("--cpus", type=float, help="cores per trial (default: 1)")
@click.option("--gpus", metavar="NUMBER|auto", type=number_or_word, help="GPUs per trial (default: 0)")
@click.option("--concurrent", type=int, help="number of trials that run at once (default: as many as fit)")
@click.option("--fresh", is_flag=True, help="archive the existing study under a dated name, and start a new one")
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
    **field_options: Any,
) -> None:
    """Compare methods with the random controls over sparsity: write the grid study, run it, and print the table.

    With the same options, a second call continues where the first one stopped. The command writes NAME.yaml, NAME.csv,
    NAME.md and NAME.tex.
    """
    from forcetune import comparison, run, show
    from forcetune.study import Study

    fields = drop_unset(field_options)
    require_options(fields, "model", "dataset")
    if not split_words(methods):
        raise InputError(f"--methods {methods}: allowed: names separated by commas, such as snip,force")
    name = name or "compare-{model}-{dataset}".format(**fields).replace(":", "-")
    resources = drop_unset({"cpus": cpus, "gpus": gpus, "concurrent": concurrent})
    study_file = comparison.grid_study(
        name, split_words(methods), parse_numbers("--densities", densities), seeds, fields, resources
    )
    study = Study.from_dict(study_file)
    descriptions = run.check_study(study)
    file = comparison.write_study(out / f"{name}.yaml", study_file)
    study_results, end_reason = run_search(study, str(file), fresh, rerun_command="the same command")
    table = comparison.compare(study_results.trials, study.grid(), chance=1 / descriptions[0]["classes"])
    caption = comparison.make_caption(study, seeds)
    click.echo(caption)
    show.comparison(*comparison.tabulate(table))
    click.echo(comparison.LEGEND)
    if caveat := comparison.warn_of_few_seeds(seeds):
        click.echo(caveat)
    click.echo("written: " + ", ".join(map(str, [file, *comparison.export(table, caption, out / name)])))
    report_end(study, study_results.trials, end_reason)


def _make_trial(fields: dict[str, Any]) -> Trial:
    from forcetune.study import Study

    require_options(fields, "dataset", "model", "method", "density")
    return Study.from_dict({"study": "prune", "trial": fields}).make_trial({})


@contextmanager
def _locating_user_errors(trial: Trial) -> Iterator[None]:
    """Turn an error in the user's own code into an InputError of one paragraph, with the file and the line."""
    try:
        yield
    except Exception as error:
        functions = [name for name in (trial.method, trial.model, trial.dataset, trial.saliency_loss) if ":" in name]
        if isinstance(error, InputError) or not functions:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{' or '.join(functions)} raised {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        ) from error
