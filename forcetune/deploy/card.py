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

SEEDS_OPTION = "search: {seeds: {front: 5}}"


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
        "## Seeds and controls",
        *_describe_evidence(export),
        "## Input and output",
        _describe_interface(export),
        "## Verified",
        format_markdown_table(*tabulate_verification(export)),
        _describe_verification(export),
        *(_describe_costs(export) if export.costs else []),
        *(["## Notes", "\n".join(f"- {note}" for note in export.notes)] if export.notes else []),
        "## Made by",
        f"```sh\n{command}\n```",
        f"Where the run no longer keeps its weights, `forcetune train {export.run_id}` trains them again first.",
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
        f"chooses. The fields of the trial: `{json.dumps(trial.fields(), sort_keys=True)}`."
    )


def _describe_evidence(export: Export) -> list[str]:
    """Return what fresh seeds say about the accuracy, and what comparisons with controls say about the mask."""
    evidence, study = export.evidence, export.evidence.study or "STUDY"
    if evidence.mean is None:
        seeds = (
            f"The accuracy of this network rests on the seed {export.trial.seed} alone. With `{SEEDS_OPTION}` in the "
            "study file, the search trains its front again with fresh seeds."
        )
    else:
        plural = "s" if evidence.seeds > 1 else ""
        seeds = (
            f"Trained again with {evidence.seeds} fresh seed{plural}, networks of this configuration have a mean "
            f"validation accuracy of {evidence.mean:.2%}{_format_interval(evidence.interval)}. A search chose this one "
            "and favours lucky seeds: the mean is what to expect."
        )
    if not evidence.verdicts:
        return [seeds, f"It was compared with no control; `forcetune baseline {study}` does that."]
    header = ("against", "verdict", "difference", "pairs", "from")
    rows = [
        [
            verdict.against,
            verdict.verdict,
            f"{verdict.mean:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}]",
            str(verdict.pairs),
            verdict.source,
        ]
        for verdict in evidence.verdicts
    ]
    explanation = (
        "The configuration against its controls, in pairs of trainings with fresh seeds. Differences are in points of "
        "test accuracy, with their 95 % intervals."
    )
    return [seeds, format_markdown_table(header, rows, {"against", "verdict", "from"}), explanation]


def _format_interval(interval: tuple[float, float] | None) -> str:
    return f" (95 % interval: {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""


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
