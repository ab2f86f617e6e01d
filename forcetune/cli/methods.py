"""The commands for pruning methods without a search: one network, or several methods side by side."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forcetune.cli.group import explaining_interrupt, fresh_option, main, out_folder_option
from forcetune.cli.options import drop_unset, parse_numbers, parse_words, require_all
from forcetune.cli.running import report_end, run_search
from forcetune.containment import contained
from forcetune.errors import InputError, locating
from forcetune.names import RUN_PATTERN

if TYPE_CHECKING:
    from forcetune.study import Study, Trial

_model_option = click.option("--model", help="a row of MODELS, torchvision:name, or package.module:function")
_dataset_option = click.option("--dataset", help="a row of DATASETS, or package.module:function")


@main.command()
@click.argument("source", required=False, metavar="[FILE|RUN]")
@_model_option
@_dataset_option
@click.option("--method", help="a row of METHODS, or package.module:function")
@click.option("--density", type=float, help="fraction of prunable weights kept")
@click.option("--granularity", type=click.Choice(["weight", "channel"]), help="what is pruned: weights or channels")
@click.option("--iterations", type=int, help="pruning steps of an iterative method")
@click.option("--schedule", help="density after each step of an iterative method: a row of SCHEDULES")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file for the masks, such as masks.npz")
def prune(source: str | None, out: Path | None, **options: Any) -> None:
    """Prune one network without a search, and print the density of each layer.

    The network, the data and the method are those of the study in FILE, or of a trial that was run: RUN is the id of
    its run, or STUDY/TRIAL, such as digits/trial-0036. The options replace fields of FILE or RUN, and set the fields
    that FILE samples. Without FILE and RUN, the options --model, --dataset, --method and --density are enough.
    """
    from forcetune import pruning, tracking, trial
    from forcetune.cli import terminal

    if out and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")
    requested_trial = _make_trial(_load_fields(source, options))
    if pruning.method_row(requested_trial.method).rule:
        raise InputError(
            f"--method {requested_trial.method} prunes while the network trains: it has no masks before; allowed: a "
            "search with it, whose runs keep their last masks (masks.npz), or a method that prunes at initialization"
        )
    with _locating_user_errors(requested_trial), contained():
        trial.check(requested_trial)
        prepared = trial.prepare(requested_trial, fetch_masks=tracking.fetch_masks)
    terminal.masks(prepared, pruning.layer_table(prepared.masks))
    if out:
        pruning.save_masks(out, prepared.masks)
        click.echo(f"{out}: {sum(int(mask.sum()) for mask in prepared.masks.values())} weights kept")


@main.command()
@click.argument("run")
def train(run: str) -> None:
    """Train the configuration of a run again, and keep its weights among the run's artifacts.

    RUN is the id of a run, or STUDY/TRIAL, such as digits/trial-0036. The training has the fields, the task and the
    number of threads of the run: on the same machine and build it gives the same numbers, and the command says where it
    does not. No search deletes these weights. Where the run has its weights already, nothing is trained.
    """
    from forcetune.cli import terminal
    from forcetune.execution import retraining

    if not RUN_PATTERN.fullmatch(run):
        raise InputError(
            f"{run} is not a run; allowed: the id of a run, or STUDY/TRIAL, such as digits/trial-0036; `forcetune best "
            "STUDY` prints both"
        )
    with explaining_interrupt(f"interrupted; run `forcetune train {run}` again to continue"):
        retrained = retraining.train_again(run, terminal.show_epoch)
    terminal.report_retrained(run, retrained)


@main.command()
@click.argument("file", required=False)
@click.option("--methods", help="methods, separated by commas; the random controls are always added")
@click.option("--densities", help="fractions of weights kept, separated by commas")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="trials for each method and density, with seeds 0, 1, ... (default: the seeds of FILE, or 5)",
)
@click.option(
    "--equal",
    type=click.Choice(["epochs", "compute"]),
    help="what is the same for every method: the epochs, or the operations of training (at most four times the epochs)",
)
@_model_option
@_dataset_option
@out_folder_option
@fresh_option
def compare(
    file: str | None,
    methods: str | None,
    densities: str | None,
    seeds: int | None,
    equal: str | None,
    model: str | None,
    dataset: str | None,
    out: Path,
    fresh: bool,
) -> None:
    """Compare methods with the random controls over sparsity: write the grid study, run it, and print the table.

    In FILE, a study file, `trial:` has lists of methods, densities and seeds, and one value of every other field. The
    options replace what FILE has. Without FILE, --model, --dataset, --methods and --densities are enough.

    The command writes NAME.yaml, NAME.csv, NAME.md and NAME.tex; NAME is compare- with the study's name in FILE, or
    compare-MODEL-DATASET. The same command again, or `compare NAME.yaml`, continues where the first one stopped.
    """
    from forcetune import analysis
    from forcetune.cli import terminal
    from forcetune.execution.checking import check_study
    from forcetune.report import comparison
    from forcetune.study import Study
    from forcetune.study.comparison import list_configurations, make_grid, write_study
    from forcetune.study.reading import read_yaml

    if file is None:
        required_options = {"--model": model, "--dataset": dataset, "--methods": methods, "--densities": densities}
        require_all(required_options, alternative="FILE")
    kept_fractions = parse_numbers("--densities", densities)
    fields = {
        "model": model,
        "dataset": dataset,
        "method": parse_words("--methods", methods),
        "density": None if kept_fractions is None else list(dict.fromkeys(kept_fractions)),
        "seed": None if seeds is None else list(range(seeds)),
        "equal_compute": None if equal is None else equal == "compute",
    }
    written = read_yaml(file) if file else {"study": f"{model}-{dataset}".replace(":", "-"), "trial": {}}
    with locating(file):
        study_file = make_grid(_put_fields(written, drop_unset(fields)))
        study = Study.from_dict(study_file)
        descriptions = check_study(study)
    path = write_study(out / f"{study.study}.yaml", study_file)
    study_results, end_reason = run_search(study, str(path), fresh, rerun_command="the same command")
    chance = 1 / descriptions[0]["classes"]
    compared = analysis.compare(study_results.trials, list_configurations(study), chance)
    seed_count = len(study.space["seed"].values)
    table = comparison.tabulate(compared, comparison.make_caption(study, seed_count))
    click.echo(table.caption)
    terminal.console().print(table.to_terminal())
    click.echo(table.legend)
    if caveat := comparison.warn_of_few_seeds(seed_count):
        click.echo(caveat)
    click.echo("written: " + ", ".join(map(str, [path, *comparison.export(compared, table, out / study.study)])))
    report_end(study, study_results.trials, end_reason)


def _load_fields(source: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the trial to prune, from a study file, a run or no source, and from the options."""
    from forcetune import tracking
    from forcetune.study import Study
    from forcetune.study.reading import read_yaml

    fields = drop_unset(options)
    if source is None:
        required = ("model", "dataset", "method", "density")
        require_all({f"--{name}": options[name] for name in required}, alternative="FILE and RUN")
        return fields
    if Path(source).exists() or source.endswith((".yaml", ".yml")):
        written = read_yaml(source)
        with locating(source):
            # only missing fields are set here: a value in place of a domain may contradict a `when:`
            study = Study.from_dict(_put_fields(written, fields, overwrite=False))
            return _fix_fields(study, fields, settable=list(options))
    if not RUN_PATTERN.fullmatch(source):
        raise InputError(
            f"{source}: there is no such file; allowed: a study file, the id of a run, or STUDY/TRIAL, such as "
            "digits/trial-0036; `forcetune best STUDY` prints both"
        )
    return {**tracking.load_trial_fields(tracking.find_run(source)), **fields}


def _put_fields(written: Any, fields: Mapping[str, Any], overwrite: bool = True) -> Any:
    """Return the content of a study file with these fields of a trial, or unchanged where it has no mapping `trial`."""
    trial = written.get("trial") if isinstance(written, Mapping) else None
    if not isinstance(trial, Mapping):
        return written
    return {**written, "trial": {**trial, **fields} if overwrite else {**fields, **trial}}


def _fix_fields(study: Study, values: Mapping[str, Any], settable: list[str]) -> dict[str, Any]:
    """Return these values and the fixed values of a study's other fields, as far as a trial with them has the fields.

    Sampled fields are left out where no mask depends on them, and refused otherwise.

    Args:
        study: The study.
        values: The values that replace those of the study, by field.
        settable: The fields that an option can set.
    """
    from forcetune.study import Effect, select_fields
    from forcetune.study.problems import summarize

    training_fields = {*select_fields(Effect.TRAINING)}
    fields = dict(values)
    sampled: set[str] = set()
    problems = []
    for name, domain in study.space.items():  # parents of a `when:` come before their children
        sampled_parents = study.parents(name) & sampled
        if name in values or not (sampled_parents or study.is_active(name, fields)):
            continue
        if len(domain.values) == 1 and not sampled_parents:
            fields[name] = domain.values[0]
            continue
        sampled.add(name)
        if name not in training_fields and sampled_parents <= training_fields:
            remedy = f"set it with --{name}" if name in settable else "write one value into the file"
            problems.append(f"trial.{name}: is sampled ({domain}), but a network needs a single value; {remedy}")
    if problems:
        raise InputError(summarize(problems))
    return fields


def _make_trial(fields: dict[str, Any]) -> Trial:
    """Return the trial with these fields. Raises InputError where a field is not valid."""
    from forcetune.study import Study

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
