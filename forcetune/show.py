"""What the commands print: tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.pruning import Inspection
    from forcetune.search.doctor import Finding
    from forcetune.spec import Study
    from forcetune.trial import Prepared

BAR = 30


def console() -> Console:
    """Standard output as it is, but never so narrow that a table loses a run id where there is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def study(study: Study, facts: list[dict[str, Any]]) -> None:
    """What a study would run, and where it would be kept."""
    from forcetune.stores import mlflow_uri, optuna_uri, shown

    table = _plain()
    resources = study.resources
    at_once = f"{resources.concurrent} at once" if resources.concurrent else "as many at once as fit"
    table.add_row("study", f"{study.study}: " + ", ".join(f"{name} {way}" for name, way in study.objectives.items()))
    table.add_row("trials", f"{study.trials}, proposed by {study.search.sampler}, seed {study.search.seed}")
    table.add_row("resources", f"{resources.cpus:g} cpus and {resources.gpus:g} gpus a trial, {at_once}")
    for fact in facts:
        table.add_row("data", "{dataset}: {training} training and {validation} validation images".format(**fact))
        table.add_row("", f"of {_shape(fact['input_shape'])} in {fact['classes']} classes")
        table.add_row("model", "{model}: {prunable} prunable weights".format(**fact))
    for name, domain in study.space.items():
        if name not in ("dataset", "model", "width"):
            table.add_row(name, str(domain))
    table.add_row("MLflow", shown(mlflow_uri()))
    table.add_row("Optuna", shown(optuna_uri()))
    console().print(table)


def findings(mended: list[Finding], left: list[Finding]) -> None:
    """What was mended of a study, and what disagrees still."""
    out = console()
    for finding in mended:
        out.print(f"mended: {finding.where} {finding.what}", soft_wrap=True, highlight=False)
    if not left:
        out.print("Optuna, MLflow and the checkpoints agree")
        return
    table = _ruled("where", "what disagrees", "--repair would", left=3)
    for finding in left:
        table.add_row(finding.where, finding.what, finding.remedy)
    out.print(table)


def network(name: str, input_shape: tuple[int, ...], classes: int, found: Inspection) -> None:
    """What of a network can be pruned, layer by layer, and what would stand in the way."""
    table = _ruled("prunable layer", "shape", "weights", "share", "multiply-adds", left=2)
    for layer, shape, weights, macs in found.layers:
        table.add_row(layer, _shape(shape), f"{weights:,}", f"{weights / found.weights:.1%}", f"{macs:,}")
    table.add_row(f"{len(found.layers)} layers", "", f"{found.weights:,}", "", f"{found.macs:,}", style="bold")
    out = console()
    out.print(f"{name} for samples of {_shape(input_shape)} in {classes} classes", highlight=False)
    out.print(table)
    others = ", ".join(f"{count:,} {kind}" for kind, count in found.others.items()) or "none"
    out.print(f"never pruned: {others}", highlight=False, soft_wrap=True)
    if not found.obstacles:
        out.print("nothing stands in the way")
    for obstacle in found.obstacles:
        out.print(f"in the way: {obstacle}", highlight=False, soft_wrap=True)


def masks(prepared: Prepared, layers: list[dict[str, Any]]) -> None:
    """A pruned network: the density by layer as a bar for each, and what is left in all."""
    densest = max(layer["density"] for layer in layers)
    table = _ruled("layer", "shape", "kept", "of", "density", "relative to the densest layer", left=2)
    table.columns[-1].justify = "left"
    for layer in layers:
        filled = layer["density"] / densest * BAR
        bar = "█" * int(filled) + ("▌" if filled % 1 >= 0.5 else "")
        table.add_row(
            layer["layer"].removesuffix(".weight"),
            _shape(layer["shape"]),
            f"{layer['kept']:,}",
            f"{layer['weights']:,}",
            f"{layer['density']:.3%}",
            bar or ("▏" if layer["kept"] else "empty"),
        )
    metrics = prepared.metrics
    kept, total = (sum(layer[name] for layer in layers) for name in ("kept", "weights"))
    facts = _plain()
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


def front(front: pd.DataFrame, objectives: list[str]) -> None:
    """A front sorted by sparsity."""
    from forcetune.spec import method_label

    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ["sparsity", "accuracy", "method", "iterations", "schedule"]
    others = [name for name in objectives if name not in ("val_accuracy", "density", "sparsity")]
    for column in [*columns, *others]:
        table.add_column(column, justify="left" if column in ("method", "schedule") else "right", no_wrap=True)
    table.add_column("run id", no_wrap=True)
    for row in map(present, front.to_dict("records")):
        steps = [str(row["iterations"]) if "iterations" in row else "-", row.get("schedule", "-")]
        cells = [f"{row['sparsity']:.2%}", f"{row['val_accuracy']:.2%}", method_label(row), *steps]
        table.add_row(*cells, *(f"{row[name]:.4g}" for name in others), row["run_id"])
    console().print(table)


def comparison(header: list[str], rows: list[list[str]]) -> None:
    """Methods side by side over sparsity."""
    table = _ruled(*header, left=1)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def present(row: dict[Any, Any]) -> dict[str, Any]:
    """The row without what it does not have: a one-shot method's iterations, a trained trial's reason."""
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def _shape(sizes: Any) -> str:
    return "x".join(map(str, sizes))


def _plain() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _ruled(*header: str, left: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    return table
