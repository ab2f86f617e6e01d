"""The model card: what an exported network is, what it was compared with, and the command that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forcetune.deploy.measurement import TIMED_RUNS, WARM_UP_RUNS, FileCost
from forcetune.formats import format_bytes, format_markdown_table, format_sparsity
from forcetune.study import method_label

if TYPE_CHECKING:
    from forcetune.deploy.export import Export
    from forcetune.deploy.verification import Verification

COST_HEADER = (
    "network", "accuracy", "batch 1, ms (p95)", "batch 32, ms (p95)", "peak memory", "file", "compressed",
)  # fmt: skip


def render_card(export: Export, command: str) -> str:
    """Return the model card of an export in Markdown.

    Args:
        export: The export.
        command: The command that makes it again.
    """
    paragraphs = [
        f"# {export.paths[0].name}",
        *([f"**{export.rival_verdict}**"] if export.is_beaten and export.rival_verdict else []),
        _describe_network(export),
        "## Input and output",
        _describe_interface(export),
        "## Verified",
        format_markdown_table(*tabulate_verification(export)),
        _describe_verification(export),
        *(_describe_costs(export) if export.costs else []),
        *([f"## Notes\n\n{_list_items(export.notes)}"] if export.notes else []),
        "## Made by",
        f"```sh\n{command}\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


def tabulate_costs(
    costs: Mapping[str, FileCost], accuracies: Mapping[str, float]
) -> tuple[Sequence[str], list[list[str]], set[str]]:
    """Return the table of costs: its header, its rows, and the columns that hold text.

    Args:
        costs: The cost of each network by its name.
        accuracies: The accuracy of the networks that were trained, by name, 0 to 1.
    """
    rows = [
        [
            name,
            f"{accuracies[name]:.2%}" if name in accuracies else "not trained",
            *(f"{latency.p50_ms:.3f} ({latency.p95_ms:.3f})" for latency in cost.latencies.values()),
            format_bytes(cost.peak_bytes),
            format_bytes(cost.file_bytes),
            f"{format_bytes(cost.compressed_bytes)} ({cost.compression})",
        ]
        for name, cost in costs.items()
    ]
    return COST_HEADER, rows, {"network"}


def tabulate_verification(export: Export) -> tuple[Sequence[str], list[list[str]], set[str]]:
    """Return the table of comparisons with the trained network: its header, its rows, and the columns of text."""
    header = ("file", "largest difference", "of the logits' range", "same class", "accuracy")
    rows = [
        [
            name,
            f"{verification.largest_difference:.2g}",
            f"{verification.relative_difference:.2g}",
            f"{verification.agreement:.2%}",
            f"{verification.accuracy:.2%}",
        ]
        for name, verification in export.verifications.items()
    ]
    return header, rows, {"file"}


def _describe_network(export: Export) -> str:
    trial, metrics = export.trial, export.run_metrics
    sparsity = metrics.get("sparsity", 1 - trial.density)
    label = method_label(trial.fields())
    pruned = f"pruned by `{label}` to a sparsity of {format_sparsity(sparsity)}" if sparsity else "with nothing pruned"
    return (
        f"The network `{trial.model}` for the data set `{trial.dataset}`, {pruned}, and trained by forcetune "
        f"{export.version} with the seed {trial.seed} (run `{export.run_id}`). {export.macs_fraction:.1%} of the dense "
        "network's multiply-adds are left in the file. Its accuracy is that on the validation split, by which a search "
        f"chooses; it rests on one seed. The fields of the trial: `{json.dumps(trial.fields(), sort_keys=True)}`."
    )


def _describe_interface(export: Export) -> str:
    classes = (
        f"The classes are, in order: {', '.join(export.class_names)}."
        if export.class_names
        else "Classes have no names."
    )
    if export.input_format is None:
        return f"The file has the tensors of the network by their names, and its masks as `masks/NAME`. {classes}"
    return (
        f"Input `input`: {export.input_format.describe()}. Output `logits`: float32 (batch, {export.classes}); the "
        f"class is the index of the largest. {classes}"
    )


def _describe_verification(export: Export) -> str:
    verification: Verification = next(iter(export.verifications.values()))
    run_accuracy = export.run_metrics.get("val_accuracy")
    logged = "the run logged none" if run_accuracy is None else f"the run logged {run_accuracy:.2%}"
    return (
        f"Compared with the trained network in torch on all {verification.samples} images of the validation split, "
        f"where that has the accuracy {verification.network_accuracy:.2%}; {logged}."
    )


def _describe_costs(export: Export) -> list[str]:
    table = format_markdown_table(*tabulate_costs(export.costs, export.accuracies))
    explanation = (
        f"Measured in {export.runtime} on one thread of {export.machine}: medians of {TIMED_RUNS} runs after "
        f"{WARM_UP_RUNS}, the networks in turn while no other measurement ran. Peak memory is that of a fresh process "
        "at batch 1. The dense network has the architecture before pruning, and weights that are not trained."
    )
    return ["## Measured", table, explanation, *([export.rival_verdict] if export.rival_verdict else [])]


def _list_items(notes: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)
