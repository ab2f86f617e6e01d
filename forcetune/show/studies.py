"""A study before it runs, a network, a mask, methods side by side, what a doctor finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forcetune.show.layout import console, plain, ruled, sizes

if TYPE_CHECKING:
    from forcetune.pruning import Inspection
    from forcetune.search.cost import Cost
    from forcetune.search.doctor import Finding
    from forcetune.spec import Study
    from forcetune.trial import PreparedTrial

BAR = 30


def study(study: Study, facts: list[dict[str, Any]]) -> None:
    """What a study would run, and where it would be kept."""
    from forcetune.stores import mlflow_uri, optuna_uri, shown

    table = plain()
    resources = study.resources
    gpus = "a share of a gpu (auto)" if resources.gpus == "auto" else f"{resources.gpus:g} gpus"
    at_once = f"{resources.concurrent} at once" if resources.concurrent else "as many at once as fit"
    table.add_row("study", f"{study.study}: " + ", ".join(f"{name} {way}" for name, way in study.directions.items()))
    table.add_row("trials", f"{study.trials}, proposed by {study.search.sampler}, seed {study.search.seed}")
    if study.stopping != "none":
        table.add_row("stopping", study.stopping)
    for name, (low, high) in study.task.constraints.items():
        bounds = [f"{words} {bound:g}" for words, bound in (("at least", low), ("at most", high)) if bound is not None]
        table.add_row("constraint", f"{name} {' and '.join(bounds)}, or the network is not trained")
    own = {"measure": study.task.measure, "metrics": ", ".join(study.task.metrics), "train": study.task.train}
    for name, function in own.items():
        if function:
            table.add_row(name, function)
    for name, limits in (("budget", study.search.budget), ("patience", study.search.patience)):
        if limits:
            table.add_row(name, ", ".join(f"{n} {v:g}" for n, v in limits.model_dump(exclude_none=True).items()))
    if study.search.seeds:
        table.add_row("seeds", f"up to {study.search.seeds.front} fresh ones for the front and what may belong to it")
    table.add_row("resources", f"{resources.cpus:g} cpus and {gpus} a trial, {at_once}")
    for fact in facts:
        table.add_row("data", "{dataset}: {training} training and {validation} validation images".format(**fact))
        table.add_row("", f"of {sizes(fact['input_shape'])} in {fact['classes']} classes")
        table.add_row("model", "{model}: {prunable:,} prunable weights, {macs:,} multiply-adds".format(**fact))
    for name, domain in study.space.items():
        if name not in ("dataset", "model", "width"):
            table.add_row(name, str(domain))
    table.add_row("MLflow", shown(mlflow_uri()))
    table.add_row("Optuna", shown(optuna_uri()))
    console().print(table)


def cost(predicted: Cost) -> None:
    """What the search will cost."""
    from forcetune.times import duration

    out = console()
    trials = f"{predicted.trials} trials"
    each = f"{predicted.mean:.1f} s on average ({predicted.fastest:.1f} to {predicted.slowest:.1f} s)"
    out.print(
        f"about {duration(3600 * predicted.hours)} with {predicted.at_once} at once on {predicted.device}, "
        f"{predicted.device_hours:.2g} device hours: {trials}, each {each} if trained to its end, less "
        "what early stopping saves",
        soft_wrap=True,
        highlight=False,
    )


def network(name: str, input_shape: tuple[int, ...], classes: int, found: Inspection) -> None:
    """What of a network can be pruned, layer by layer, and what would stand in the way."""
    table = ruled("prunable layer", "shape", "weights", "share", "multiply-adds", left=2)
    for layer, shape, weights, macs in found.layers:
        table.add_row(layer, sizes(shape), f"{weights:,}", f"{weights / found.weights:.1%}", f"{macs:,}")
    table.add_row(f"{len(found.layers)} layers", "", f"{found.weights:,}", "", f"{found.macs:,}", style="bold")
    out = console()
    out.print(f"{name} for samples of {sizes(input_shape)} in {classes} classes", highlight=False)
    out.print(table)
    others = ", ".join(f"{count:,} {kind}" for kind, count in found.others.items()) or "none"
    out.print(f"never pruned: {others}", highlight=False, soft_wrap=True)
    if not found.obstacles:
        out.print("nothing stands in the way")
    for obstacle in found.obstacles:
        out.print(f"in the way: {obstacle}", highlight=False, soft_wrap=True)


def masks(prepared: PreparedTrial, layers: list[dict[str, Any]]) -> None:
    """A pruned network: the density by layer as a bar for each, and what is left in all."""
    densest = max(layer["density"] for layer in layers)
    table = ruled("layer", "shape", "kept", "of", "density", "relative to the densest layer", left=2)
    table.columns[-1].justify = "left"
    for layer in layers:
        filled = layer["density"] / densest * BAR
        bar = "█" * int(filled) + ("▌" if filled % 1 >= 0.5 else "")
        table.add_row(
            layer["layer"].removesuffix(".weight"),
            sizes(layer["shape"]),
            f"{layer['kept']:,}",
            f"{layer['weights']:,}",
            f"{layer['density']:.3%}",
            bar or ("▏" if layer["kept"] else "empty"),
        )
    metrics = prepared.metrics
    kept, total = (sum(layer[name] for layer in layers) for name in ("kept", "weights"))
    facts = plain()
    facts.add_row("kept", f"{kept:,} of {total:,} weights: density {metrics['density']:.4%}")
    facts.add_row("on a path", f"effective density {metrics['effective_density']:.4%}")
    facts.add_row("multiply-adds", f"{metrics['macs']:,}, {metrics['macs_fraction']:.2%} of the dense network's")
    facts.add_row("emptied", f"{metrics['layers_emptied']} layers, {metrics['channels_emptied']} channels")
    cost = f"{metrics['saliency_samples']:,} samples, {metrics['prune_seconds']:.1f} s"
    facts.add_row("the mask cost", cost)
    if "dense_width" in metrics:
        facts.add_row("small dense", f"width {metrics['dense_width']}, nothing pruned")
    if prepared.collapsed:
        facts.add_row("collapsed", prepared.collapsed)
    out = console()
    out.print(table)
    out.print(facts)


def comparison(header: list[str], rows: list[list[str]]) -> None:
    """Methods side by side over sparsity."""
    table = ruled(*header, left=1)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def findings(mended: list[Finding], left: list[Finding]) -> None:
    """What was mended of a study, and what disagrees still."""
    out = console()
    for finding in mended:
        out.print(f"mended: {finding.where} {finding.what}", soft_wrap=True, highlight=False)
    if not left:
        out.print("Optuna, MLflow and the checkpoints agree")
        return
    table = ruled("where", "what disagrees", "--repair would", left=3)
    for finding in left:
        table.add_row(finding.where, finding.what, finding.remedy)
    out.print(table)
