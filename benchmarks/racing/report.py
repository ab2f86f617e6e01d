"""The tables and the picture of the race."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from recipe import TASKS

from racing.arms import ARMS, SCRIPT_ARMS
from racing.results import LEVELS, RATIOS, Standings, device_seconds, headline
from racing.score import instants

ABLATION_LEVEL = "half"
PICTURED_ARMS = (
    "forcetune",
    "without_stopping",
    "parts",
    "parts_asha",
    "tune",
    "tune_asha",
    "optuna_tpe",
    "optuna_gp",
    "naive",
    "syne_tune",
)


def tables(standings: Standings, kills: dict[str, Any]) -> str:
    """Return all tables as Markdown."""
    sections = [headline_table(standings), *(arm_table(standings, task) for task in tasks_of(standings))]
    sections += [ablation_table(standings), kill_table(kills), missing_arms_text(standings)]
    return "\n\n".join(section for section in sections if section)


def missing_arms_text(standings: Standings) -> str:
    """Return a sentence that names the arms without a run."""
    arms_with_runs = {arm for _, _, arm in standings.runs}
    titles = [definition.title for arm, definition in ARMS.items() if arm not in arms_with_runs]
    return f"Not run: {'; '.join(titles)}." if titles else ""


def headline_table(standings: Standings) -> str:
    """Return the table of the ratios: a row for each ratio and level, a column for each task and one for all."""
    tasks = tasks_of(standings)
    rows = []
    for name, (_, _, title) in RATIOS.items():
        for level in LEVELS:
            cells = [headline(standings, task)[name][level] for task in [*tasks, None]]
            rows.append(
                [title, "end of its budget" if level == "end" else "half of its budget", *map(ratio_text, cells)]
            )
    return table(["how many times sooner", "level: the reference's at", *tasks, "**median of all**"], rows, 2)


def arm_table(standings: Standings, task: str) -> str:
    """Return the table of a task: a row for each arm, medians over the seeds."""
    rows = []
    for arm in ARMS:
        runs = [run for run in standings.runs.values() if (run.task, run.arm) == (task, arm)]
        if not runs:
            continue
        times_s, cpu_times_s = [], []
        for run in runs:
            reference = standings.best_of(task, run.seed, SCRIPT_ARMS)
            level = standings.level(task, run.seed, reference, "end") if reference else float("inf")
            seconds = standings.seconds_to(task, run.seed, arm, level)
            times_s.append(seconds)
            cpu_times_s.append(run.cpu_at(seconds) if seconds else None)
        rows.append(
            [
                ARMS[arm].title,
                f"{median(len(run.trials) for run in runs):.0f}",
                f"{median(standings.end_volume(task, run.seed, arm) for run in runs):.3f}",
                seconds_text(times_s, device_seconds),
                seconds_text(times_s),
                seconds_text(cpu_times_s),
                f"{median(run.content['cpu_curve'][-1][1] for run in runs):.0f}",
                f"{median(run.content['other_cpu_s'] / run.content['wall_s'] for run in runs):.2f}",
            ]
        )
    head = [
        "arm",
        "trials",
        "hypervolume",
        "device s",
        "wall s",
        "CPU s until then",
        "CPU s in all",
        "other load, cores",
    ]
    return f"{task}\n\n" + table(head, rows, 1)


def ablation_table(standings: Standings) -> str:
    """Return the table of the ablation: what forcetune loses without each feature.

    The level is that of forcetune after half of its budget.
    """
    rows = []
    for arm, definition in ARMS.items():
        if not definition.without:
            continue
        slowdowns, volume_shares = [], []
        for task, seed in standings.task_seeds:
            if not {(task, seed, arm), (task, seed, "forcetune")} <= standings.runs.keys():
                continue
            level = standings.level(task, seed, "forcetune", ABLATION_LEVEL)
            forcetune_s, ablated_s = (standings.seconds_to(task, seed, name, level) for name in ("forcetune", arm))
            if forcetune_s is None:
                continue  # forcetune had no front yet
            slowdowns.append(ablated_s / forcetune_s if ablated_s else float("inf"))
            volume = standings.end_volume(task, seed, "forcetune")
            volume_shares.append(standings.end_volume(task, seed, arm) / volume if volume else float("nan"))
        if slowdowns:
            slowdown = median(slowdowns)
            rows.append(
                [
                    definition.title,
                    "never" if slowdown == float("inf") else f"{slowdown:.2f}",
                    f"{median(volume_shares):.3f}",
                ]
            )
    head = [
        "part switched off",
        "time to forcetune's level at half of its budget, over forcetune's",
        "hypervolume kept",
    ]
    return table(head, rows, 1) if rows else ""


def kill_table(kills: dict[str, Any]) -> str:
    """Return the table of the kill test, a row for each store of each killed arm."""
    rows = []
    for arm, content in kills.items():
        for store in content["stores"]:
            counts = [
                f"{store[name]} of {content['wanted']}" if name == "finished" else str(store[name])
                for name in ("finished", "lost", "doubled", "stuck")
            ]
            second_run = "ended" if content["exit_code"] == 0 else f"exit code {content['exit_code']}"
            rows.append([ARMS[arm].title, store["store"], *counts, second_run])
    head = ["killed and resumed", "store", "finished", "lost", "doubled", "stuck", "second run"]
    return table(head, rows, 2) if rows else ""


def draw_picture(standings: Standings, path: Path) -> None:
    """Draw the hypervolume over device seconds, the median of the seeds, with a panel for each task."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "race"
    from matplotlib import pyplot

    tasks = tasks_of(standings)
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(5.5 * len(tasks), 4.2), squeeze=False)
    for task, panel in zip(tasks, panels[0], strict=True):
        for number, arm in enumerate(PICTURED_ARMS):
            keys = [key for key in standings.runs if (key[0], key[2]) == (task, arm)]
            if not keys:
                continue
            seconds = [device_seconds(second) for second in instants(standings.runs[keys[0]].budget_s)]
            volumes = [median(column) for column in zip(*(standings.curves[key] for key in keys), strict=True)]
            width = 2.5 if arm == "forcetune" else 1.2
            panel.plot(seconds, volumes, label=ARMS[arm].title, color=f"C{number}", linewidth=width)
        panel.set(
            title=task, xscale="log", xlabel="device seconds since the command", ylabel="hypervolume, fresh seeds"
        )
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize="x-small", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def tasks_of(standings: Standings) -> list[str]:
    """Return the tasks that were run."""
    return [task for task in TASKS if any(run_task == task for run_task, _ in standings.task_seeds)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    """Return a table in Markdown; the first `text_columns` columns are text, the others are numbers."""
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def ratio_text(value: float | None) -> str:
    """Return a ratio as text; 0 stands for a level that was never reached."""
    return "" if value is None else f"{value:.2f}" if value else "never"


def seconds_text(values: Sequence[float | None], scale: Any = float) -> str:
    """Return the median of times as text; None stands for a level that was never reached."""
    median_value = median(float("inf") if value is None else scale(value) for value in values)
    return "never" if median_value == float("inf") else f"{median_value:.1f}"
