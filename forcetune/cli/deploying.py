"""The command that exports a trained network to a file that runs on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.asking import Question
from forcetune.cli.group import explaining_interrupt, json_option, main, out_folder_option
from forcetune.cli.options import print_json, require_at_most_one
from forcetune.containment import contained
from forcetune.errors import InputError
from forcetune.names import RUN_PATTERN

if TYPE_CHECKING:
    from forcetune.deploy.inputs import InputType, Layout
    from forcetune.deploy.writing import FileFormat

MAX_RUNS_LISTED = 5  # in the message about a question that several trials answer


@main.command("export")
@click.argument("source", metavar="RUN|STUDY")
@click.option(
    "--knee", is_flag=True, help="of STUDY: the point of its front beyond which one objective costs most of the others"
)
@click.option("--top", type=click.IntRange(1), help="of STUDY: its most accurate trial (--top 1)")
@click.option(
    "--where", multiple=True, metavar="CONDITION", help="of STUDY: only trials that meet this condition, as in `best`"
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["onnx", "torch", "safetensors"]),
    default="onnx",
    show_default=True,
    help="format of the file: onnx, torch (torch.export) or safetensors (weights and masks)",
)
@out_folder_option
@click.option(
    "--layout",
    type=click.Choice(["nchw", "nhwc"]),
    default="nchw",
    show_default=True,
    help="order of an image's dimensions in the input",
)
@click.option(
    "--input",
    "input_type",
    type=click.Choice(["uint8", "float32"]),
    help="type of the input: pixels from 0 to 255, or from 0 to 1 (default: uint8 where the data set has pixels)",
)
@click.option("--int8", is_flag=True, help="also write an int8 version of the ONNX file")
@click.option(
    "--max-loss",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="points of validation accuracy that int8 may lose",
)
@click.option(
    "--rival/--no-rival",
    default=None,
    help="train the small dense network of equal latency beside it (default: where the trial took up to 2 minutes)",
)
@click.option(
    "--register",
    metavar="NAME",
    help="also register the network in MLflow as a version of the model NAME, with aliases that follow the front",
)
@json_option
def export_command(
    source: str,
    knee: bool,
    top: int | None,
    where: tuple[str, ...],
    file_format: FileFormat,
    out: Path,
    layout: Layout,
    input_type: InputType | None,
    int8: bool,
    max_loss: float,
    rival: bool | None,
    register: str | None,
    as_json: bool,
) -> None:
    """Export the trained network of a run to a file that runs, with a model card beside it.

    RUN is the id of a run that keeps its weights, or STUDY/TRIAL, such as digits/trial-0036; of STUDY, the options
    --knee, --top and --where select one trial. The file is verified against the trained network on the whole
    validation split, and measured on one thread beside the dense network. A file that disagrees is not written. With
    --register, MLflow loads it by an alias: models:/NAME@knee, @sparsest or @most-accurate.
    """
    from forcetune.cli import terminal
    from forcetune.deploy import export_network

    run = _select_run(source, knee, top, where)
    with explaining_interrupt("interrupted; no unfinished file is left"), contained():
        export = export_network(
            run,
            out,
            file_format=file_format,
            layout=layout,
            input_type=input_type,
            int8=int8,
            max_loss=max_loss,
            rival=rival,
            register=register,
        )
    if as_json:
        registered = {"registered": vars(export.registration)} if export.registration else {}
        files = [str(path) for path in export.paths]
        print_json({"run_id": export.run_id, "files": files, **registered, **export.metrics})
    else:
        terminal.export(export)


def _select_run(source: str, knee: bool, top: int | None, where: tuple[str, ...]) -> str:
    """Return a run, or the only run of a study that answers the question of the options."""
    from forcetune.report import results

    require_at_most_one({"--knee": knee, "--top": top})
    has_question = bool(knee or top or where)
    if RUN_PATTERN.fullmatch(source):
        if has_question:
            raise InputError(f"{source} is one run: --knee, --top and --where select a trial of a study")
        return source
    if not has_question:
        raise InputError(
            f"{source}: which of its trials? Allowed: --knee, --top 1 or --where CONDITION that one trial of the front "
            f"meets, or a run, such as {source}/trial-0036; `forcetune best {source}` prints them"
        )
    question = Question(where, knee=knee, top=top)
    selected = question.select(results.load(source)).trials
    if len(selected) != 1:
        raise InputError(_describe_selection(source, selected["name"].tolist() if len(selected) else []))
    return str(selected["run_id"].iloc[0])


def _describe_selection(study: str, names: list[str]) -> str:
    """Return the message about a question that no trial answers, or several."""
    if not names:
        return f"no trained trial of {study} answers this question; `forcetune best {study}` prints its front"
    more = f" and {len(names) - MAX_RUNS_LISTED} more" if len(names) > MAX_RUNS_LISTED else ""
    listed = ", ".join(f"{study}/{name}" for name in names[:MAX_RUNS_LISTED])
    return f"{len(names)} trials of {study} answer this question ({listed}{more}); an export takes one: --knee, --top 1"
