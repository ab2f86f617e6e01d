"""What the commands print: tables on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.baseline import Findings, Share
    from forcetune.jobs import Job
    from forcetune.pruning import Inspection
    from forcetune.search.cost import Cost
    from forcetune.search.doctor import Finding
    from forcetune.service import Service
    from forcetune.spec import Study
    from forcetune.trial import Prepared

BAR = 30


def console(error: bool = False) -> Console:
    """Standard output (or error) as it is, but never so narrow that a table loses an id where there is no terminal."""
    found = Console(stderr=error)
    return found if found.is_terminal else Console(width=160, stderr=error)


def study(study: Study, facts: list[dict[str, Any]]) -> None:
    """What a study would run, and where it would be kept."""
    from forcetune.stores import mlflow_uri, optuna_uri, shown

    table = _plain()
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
        table.add_row("", f"of {_shape(fact['input_shape'])} in {fact['classes']} classes")
        table.add_row("model", "{model}: {prunable:,} prunable weights, {macs:,} multiply-adds".format(**fact))
    for name, domain in study.space.items():
        if name not in ("dataset", "model", "width"):
            table.add_row(name, str(domain))
    table.add_row("MLflow", shown(mlflow_uri()))
    table.add_row("Optuna", shown(optuna_uri()))
    console().print(table)


def service(found: Service, new: bool) -> None:
    """What runs on this machine, and how it is reached."""
    from forcetune.stores import shown

    out = Console(soft_wrap=True, highlight=False)
    out.print("started" if new else "runs already")
    rows = {
        "Ray": f"{found.ray}  dashboard and jobs; its token: {found.token}",
        "MLflow": f"{found.mlflow}  {shown(found.backend)}",
        "Optuna": shown(found.storage),
        "Prometheus": found.metrics,
    }
    for name, told in rows.items():
        out.print(f"{name:<10}  {told}")
    for process, address, port in found.exposed():
        out.print(f"listens beyond loopback: {process} on {address}, port {port}")
    out.print("`forcetune submit FILE` in this folder finds them; elsewhere:")
    for name, value in found.variables.items():
        out.print(f"export {name}={value}")


def jobs(found: list[Job]) -> None:
    """Jobs, the latest first, and below them why those failed that did."""
    from forcetune.search.progress import duration

    if not found:
        console().print("the cluster has no job of forcetune")
        return
    table = _ruled("job", "study", "state", "trials", "front", "hypervolume", "age", "owner", left=3)
    table.columns[-1].justify = "left"
    for job in found:
        trials = f"{'-' if job.done is None else job.done} of {'?' if job.trials is None else job.trials}"
        front = "-" if job.front is None else f"{job.front} points"
        volume = "-" if job.hypervolume is None else f"{job.hypervolume:.3f}"
        age = "-" if job.started is None else duration(time.time() - job.started)
        state = f"{job.state}, low priority" if job.priority == "low" else job.state
        table.add_row(job.id, job.study, state, trials, front, volume, age, job.owner)
    console().print(table)
    for job in found:
        if job.reason:
            console().print(f"{job.id}: {job.reason}", soft_wrap=True, highlight=False)


def cost(predicted: Cost) -> None:
    """What the search will cost."""
    from forcetune.search.progress import duration

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
    """A front sorted by sparsity; where something was run again, what that says of each point."""
    from forcetune.spec import method_label

    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ["sparsity", "accuracy", "method", "iterations", "schedule"]
    others = [name for name in objectives if name not in ("val_accuracy", "density", "sparsity")]
    again = ["seeds", "on the front"] if "seeds" in front.columns else []
    for column in [*columns, *others, *again]:
        table.add_column(column, justify="left" if column in ("method", "schedule") else "right", no_wrap=True)
    table.add_column("run id", no_wrap=True)
    for row in map(present, front.to_dict("records")):
        steps = [str(row["iterations"]) if "iterations" in row else "-", row.get("schedule", "-")]
        accuracy = _believed(row, "val_accuracy", lambda value: f"{value:.2%}")
        told = [str(row["seeds"]), f"{row['front_probability']:.0%}"] if row.get("seeds") else ["-", "-"]
        cells = [f"{row['sparsity']:.2%}", accuracy, method_label(row), *steps]
        cells += [_believed(row, name, lambda value: f"{value:.4g}") for name in others]
        table.add_row(*cells, *told[: len(again)], row["run_id"])
    console().print(table)


def doubts(front: pd.DataFrame) -> None:
    """Say how far a front is to be believed."""
    out = console()
    seeds = front["seeds"].fillna(0) if "seeds" in front.columns else front["sparsity"] * 0
    if (alone := int((seeds == 0).sum())) == len(front):
        out.print(
            "one seed stands behind each of these points: `search: {seeds: {front: 5}}` runs them again", soft_wrap=True
        )
        return
    out.print(
        "accuracy and objectives: mean over fresh seeds with its 95 % interval; on the front: how probable that is",
        soft_wrap=True,
    )
    if alone:
        out.print(f"- only one seed stands behind {alone} of these points", soft_wrap=True)


def _believed(row: dict[str, Any], name: str, words: Callable[[float], str]) -> str:
    """The mean with half its interval where there are fresh seeds, else the one value that there is."""
    if f"{name}_mean" not in row:
        return words(row[name]) if name in row else "-"
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{words(row[f'{name}_mean'])} ± {words(half)}"


def comparison(header: list[str], rows: list[list[str]]) -> None:
    """Methods side by side over sparsity."""
    table = _ruled(*header, left=1)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def cost_of_comparisons(comparisons: int, runs: int, device_hours: float) -> str:
    """What is about to be run, in one line."""
    if not runs:
        return f"{comparisons} comparisons, nothing is left to be run"
    return f"{comparisons} comparisons, {runs} runs, about {device_hours:.2g} device hours"


def verdicts(found: pd.DataFrame, margin: float) -> None:
    """A row a comparison, those with twins that inherit settings apart from those with tuned ones; what it means."""
    out = console()
    if found.empty:
        out.print("there is nothing to compare")
        return
    titles = {"fixed": "the twin has the champion's settings", "tuned": "random pruning has settings of its own"}
    for kind, title in titles.items():
        rows = found[found["kind"] == kind]
        if len(rows):
            out.print(f"\n{kind}: {title}", highlight=False)
            out.print(_verdicts(rows))
    out.print(
        "\ndifference: champion minus twin in points of test accuracy, mean over pairs with one seed each, and "
        f"Student's 95 % interval. ties: the mean lies within {margin:g} points, by two one-sided tests. p: of "
        "no difference, by all flips of the pairs' signs, corrected by Holm over all comparisons. least p: the "
        "smallest, uncorrected, that so many pairs allow. needed: pairs in all that would probably settle it",
        soft_wrap=True,
        highlight=False,
    )
    if (lost := int(found["lost"].sum())) > 0:
        out.print(f"{lost} pairs say nothing, since a run failed", soft_wrap=True)


def shares(found: list[Share]) -> None:
    """What a night would do."""
    out = console()
    table = _ruled("study", "runs", "device hours", left=1)
    for share in found:
        table.add_row(share.study, str(len(share.companions)), f"{share.device_hours:.2g}")
    out.print(table)
    for note in (note for share in found for note in share.notes):
        out.print(note, soft_wrap=True, highlight=False)


def night(found: Findings, margin: float) -> None:
    """What a night has found."""
    out = console()
    out.print(f"night of {found.night}", highlight=False)
    if len(found.verdicts):
        out.print(_standing(found.verdicts.to_dict("records")))
        out.print(
            "difference: over all nights, with Student's 95 % interval, points of test accuracy. p: by which the "
            "verdict was reached, or of the pairs so far, corrected for looking every night and for all comparisons. "
            f"ties: within {margin:g} points",
            soft_wrap=True,
            highlight=False,
        )
    else:
        out.print("nothing was compared")
    for watch in found.watches:
        drift = watch.drift
        told = f"{drift.changed} of {drift.runs} changed, {watch.shift:+.2f} points" if drift.nights else "first night"
        out.print(f"sentinels of {watch.study}, {watch.arm}: {told}", highlight=False)
    for note in found.notes:
        out.print(note, soft_wrap=True, highlight=False)
    for alarm in found.alarms:
        out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)


def schedule(planned: dict[str, str], last: dict[str, dict[str, Any]]) -> None:
    """Nights to come, and the last ones with their verdicts."""
    out = console()
    for file, when in planned.items():
        out.print(f"next night of {file}: {when}", soft_wrap=True, highlight=False)
    if not planned:
        out.print("the crontab starts no night; `forcetune schedule cron FILE --at HH:MM --install` lets it")
    for name, told in last.items():
        out.print(f"last night of {name}: {told['night']}, {told['outcome']}, run {told['run']}", highlight=False)
        for alarm in told["alarms"]:
            out.print(f"ALARM: {alarm}", soft_wrap=True, highlight=False)
        if told["verdicts"]:
            out.print(_standing(told["verdicts"]))
    if not last:
        out.print("MLflow has no night yet")


def _standing(rows: list[dict[Any, Any]]) -> Table:
    header = "study", "champion", "method", "sparsity", "against", "pairs", "difference", "p", "verdict", "since"
    table = _ruled(*header, left=3)
    for column in table.columns:
        if column.header in ("against", "verdict", "since"):
            column.justify = "left"
    for row in map(present, rows):
        interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
        table.add_row(
            *(
                row["study"],
                row["champion"],
                row["method"],
                f"{row['sparsity']:.2%}",
                row["against"],
                str(row["pairs"]),
            ),
            *(f"{row['mean']:+.2f}{interval}", f"{row['p']:.2g}", row["holds"], row.get("since") or "-"),
        )
    return table


def _verdicts(rows: pd.DataFrame) -> Table:
    header = "champion", "method", "sparsity", "accuracy", "against", "accuracy", "pairs", "difference", "p", "least p"
    table = _ruled(*header, "verdict", "needed", left=2)
    for name in ("against", "verdict"):
        next(column for column in table.columns if column.header == name).justify = "left"
    for row in map(present, rows.to_dict("records")):
        sparsity = f"{row['sparsity']:.2%}" if "sparsity" in row else row["band"]
        accuracies = [f"{row[name]:.2%}" if name in row else "-" for name in ("accuracy", "twin_accuracy")]
        interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
        difference = f"{row['mean']:+.2f}{interval}" if "mean" in row else "-"
        needed = str(int(row["needed"])) if "needed" in row else "-"
        p = f"{row['p_difference']:.2g}" if "p_difference" in row else "-"
        table.add_row(
            *(row["champion"], row["method"], sparsity, accuracies[0], row["against"], accuracies[1]),
            *(str(row["pairs"]), difference, p, f"{row['least_p']:.2g}", row["verdict"], needed),
        )
    return table


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
