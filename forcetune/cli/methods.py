"""Pruning methods without a search: one network, or several methods side by side."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forcetune.cli.fields import Compare, Prune, demand, number_or_word, numbers, only_given, words
from forcetune.cli.group import main
from forcetune.cli.running import end, searched
from forcetune.containment import contained
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.spec import Trial


@main.command(cls=Prune)
@click.option("--trial", "run", help="id of a trial's run, as `best` prints it; other options change its fields")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file for the masks, as masks.npz")
def prune(run: str | None, out: Path | None, **given: Any) -> None:
    """Prune one network without a search, and print its density by layer."""
    from forcetune import pruning, show, tracking, trial

    if out and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")
    wanted = _one_trial({**(tracking.trial_fields(run) if run else {}), **only_given(given)})
    with _users_code(wanted), contained():
        trial.check(wanted)
        prepared = trial.prepare(wanted, fetch_masks=tracking.fetch_masks)
    show.masks(prepared, pruning.layer_table(prepared.masks))
    if out:
        pruning.save_masks(out, prepared.masks)
        click.echo(f"{out}: {sum(int(mask.sum()) for mask in prepared.masks.values())} weights kept")


@main.command(cls=Compare)
@click.option("--methods", required=True, help="methods, with commas between; the random controls are always added")
@click.option("--densities", required=True, help="fractions of weights kept, with commas between")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="trials of each, seeds 0, 1, ...")
@click.option("--study", "name", help="the study's name (compare-MODEL-DATASET)")
@click.option("--out", type=click.Path(path_type=Path), default=".", help="folder of the files (the current one)")
@click.option("--cpus", type=float, help="cores a trial (1)")
@click.option("--gpus", metavar="NUMBER|auto", type=number_or_word, help="GPUs a trial (0)")
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

    fields = only_given(given)
    demand(fields, "model", "dataset")
    if not words(methods):
        raise InputError(f"--methods {methods}: allowed: names with commas between, as snip,force")
    name = name or "compare-{model}-{dataset}".format(**fields).replace(":", "-")
    resources = only_given({"cpus": cpus, "gpus": gpus, "concurrent": concurrent})
    written = comparison.grid_study(name, words(methods), numbers("--densities", densities), seeds, fields, resources)
    study = spec.Study.from_dict(written)
    facts = search.check(study)
    file = comparison.write_study(out / f"{name}.yaml", written)
    found, ending = searched(study, str(file), fresh, again="the same command")
    compared = comparison.compare(found.trials, study.grid(), chance=1 / facts[0]["classes"])
    caption = comparison.caption(study, seeds)
    click.echo(caption)
    show.comparison(*comparison.side_by_side(compared))
    click.echo(comparison.LEGEND)
    if doubt := comparison.doubt(seeds):
        click.echo(doubt)
    click.echo("written: " + ", ".join(map(str, [file, *comparison.export(compared, caption, out / name)])))
    end(study, found.trials, ending)


def _one_trial(fields: dict[str, Any]) -> Trial:
    from forcetune.spec import Study

    demand(fields, "dataset", "model", "method", "density")
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
