"""A study before it runs, a network, a mask, and the findings of `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forcetune.cli.terminal.layout import console, format_shape, plain_table
from forcetune.formats import format_hours
from forcetune.report.tables import Table
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    from forcetune.execution.cost import Cost
    from forcetune.pruning import Inspection
    from forcetune.search.doctor import Finding
    from forcetune.study import Study
    from forcetune.trial import PreparedTrial

BAR_CHARACTERS = 30  # of the densest layer


def study(study: Study, descriptions: list[dict[str, Any]]) -> None:
    """Print what a study would run, and where its results would be kept.

    Args:
        study: The study.
        descriptions: Its data sets and networks, as `execution.checking.check_study` returns them.
    """
    from forcetune.search.samplers import describe_sampler
    from forcetune.stores import hide_password, mlflow_uri, optuna_uri

    table = plain_table()
    resources = study.resources
    gpus = "a share of a gpu (auto)" if resources.gpus == "auto" else f"{resources.gpus:g} gpus"
    at_once = f"{resources.concurrent} at once" if resources.concurrent else "as many at once as fit"
    table.add_row("study", f"{study.study}: " + ", ".join(f"{name} {way}" for name, way in study.directions.items()))
    table.add_row("trials", f"{study.trials}, proposed by {describe_sampler(study)}, seed {study.search.seed}")
    if study.stopping != "none":
        table.add_row("stopping", study.stopping)
    for name, (low, high) in study.task.constraints.items():
        bounds = [
            f"{phrase} {bound:g}" for phrase, bound in (("at least", low), ("at most", high)) if bound is not None
        ]
        table.add_row("constraint", f"{name} {' and '.join(bounds)}; otherwise the network is not trained")
    user_functions = {
        "measure": study.task.measure,
        "metrics": ", ".join(study.task.metrics),
        "train": study.task.train,
    }
    for name, function in user_functions.items():
        if function:
            table.add_row(name, function)
    for name, limits in (("budget", study.search.budget), ("patience", study.search.patience)):
        if limits:
            table.add_row(
                name, ", ".join(f"{limit} {value:g}" for limit, value in limits.model_dump(exclude_none=True).items())
            )
    if study.search.seeds:
        table.add_row(
            "seeds", f"up to {study.search.seeds.front} fresh seeds for trials on the front, or possibly on it"
        )
    table.add_row("resources", f"{resources.cpus:g} cpus and {gpus} per trial, {at_once}")
    for description in descriptions:
        table.add_row("data", "{dataset}: {training} training and {validation} validation images".format(**description))
        table.add_row("", f"of {format_shape(description['input_shape'])} in {description['classes']} classes")
        table.add_row("model", "{model}: {prunable:,} prunable weights, {macs:,} multiply-adds".format(**description))
    for name, domain in study.space.items():
        if name not in ("dataset", "model", "width"):
            table.add_row(name, str(domain))
    table.add_row("MLflow", hide_password(mlflow_uri()))
    table.add_row("Optuna", hide_password(optuna_uri()))
    console().print(table, markup=False)


def cost(predicted: Cost) -> None:
    """Print what the search will cost.

    Args:
        predicted: The prediction of `run.predict_cost`.
    """
    from forcetune.formats import duration

    out = console()
    trials = f"{predicted.trials} trials"
    trial_duration = f"{predicted.mean:.1f} s on average ({predicted.fastest:.1f} to {predicted.slowest:.1f} s)"
    print_line(
        out,
        f"about {duration(3600 * predicted.hours)} with {predicted.at_once} at once on {predicted.device}, "
        f"{format_hours(predicted.device_hours)} device hours: {trials}, each {trial_duration} if trained to its end; "
        "early stopping makes this shorter",
    )


def network(name: str, input_shape: tuple[int, ...], classes: int, inspection: Inspection) -> None:
    """Print what can be pruned of a network, layer by layer, and what prevents pruning.

    Args:
        name: The model's name.
        input_shape: Shape of a sample, without the batch.
        classes: Number of classes.
        inspection: The prunable layers, the other parameters and the obstacles.
    """
    rows = [
        [layer, format_shape(shape), f"{weights:,}", f"{weights / inspection.weights:.1%}", f"{macs:,}"]
        for layer, shape, weights, macs in inspection.layers
    ]
    total = [f"{len(inspection.layers)} layers", "", f"{inspection.weights:,}", "", f"{inspection.macs:,}"]
    header = ["prunable layer", "shape", "weights", "share", "multiply-adds"]
    table = Table(header, [*rows, total], {"prunable layer", "shape"}).to_terminal()
    table.rows[-1].style = "bold"
    out = console()
    print_line(out, f"{name} for samples of {format_shape(input_shape)} in {classes} classes")
    out.print(table)
    unprunable = ", ".join(f"{count:,} {kind}" for kind, count in inspection.unprunable.items()) or "none"
    print_line(out, f"never pruned: {unprunable}")
    if not inspection.obstacles:
        print_line(out, "no obstacles to pruning")
    for obstacle in inspection.obstacles:
        print_line(out, f"obstacle: {obstacle}")


def masks(prepared: PreparedTrial, layers: list[dict[str, Any]]) -> None:
    """Print a pruned network: the density of each layer with a bar, and what is left in total.

    Args:
        prepared: The network and its static metrics.
        layers: One record for each layer, as `pruning.layer_table` returns them.
    """
    densest = max(layer["density"] for layer in layers)
    header = ["layer", "shape", "kept", "of", "density", "relative to the densest layer"]
    rows = []
    for layer in layers:
        filled = layer["density"] / densest * BAR_CHARACTERS
        bar = "█" * int(filled) + ("▌" if filled % 1 >= 0.5 else "")
        rows.append(
            [
                layer["layer"].removesuffix(".weight"),
                format_shape(layer["shape"]),
                f"{layer['kept']:,}",
                f"{layer['weights']:,}",
                f"{layer['density']:.3%}",
                bar or ("▏" if layer["kept"] else "empty"),
            ]
        )
    metrics = prepared.metrics
    kept, total = (sum(layer[name] for layer in layers) for name in ("kept", "weights"))
    totals = plain_table()
    totals.add_row("kept", f"{kept:,} of {total:,} weights: density {metrics['density']:.4%}")
    totals.add_row("on a path", f"effective density {metrics['effective_density']:.4%}")
    totals.add_row("multiply-adds", f"{metrics['macs']:,}, {metrics['macs_fraction']:.2%} of the dense network's")
    totals.add_row("emptied", f"{metrics['layers_emptied']} layers, {metrics['channels_emptied']} channels")
    mask_cost = f"{metrics['saliency_samples']:,} samples, {metrics['prune_seconds']:.1f} s"
    totals.add_row("mask cost", mask_cost)
    if "dense_width" in metrics:
        totals.add_row("small dense", f"width {metrics['dense_width']}, not pruned")
    if prepared.collapse_reason:
        totals.add_row("collapsed", prepared.collapse_reason)
    out = console()
    out.print(Table(header, rows, {"layer", "shape", "relative to the densest layer"}).to_terminal())
    out.print(totals, markup=False)


def findings(repaired: list[Finding], remaining: list[Finding]) -> None:
    """Print what was repaired of a study, and what still disagrees.

    Args:
        repaired: Disagreements that were repaired.
        remaining: Disagreements that remain.
    """
    out = console()
    for finding in repaired:
        print_line(out, f"repaired: {finding.where} {finding.what}")
    if not remaining:
        print_line(out, "Optuna, MLflow and the checkpoints agree")
        return
    header = ["where", "what disagrees", "--repair would"]
    rows = [[finding.where, finding.what, finding.remedy] for finding in remaining]
    out.print(Table(header, rows, text_columns=header).to_terminal())
