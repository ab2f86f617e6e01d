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
    "naive",
    "syne_tune",
)


def tables(standings: Standings, kills: dict[str, Any]) -> str:
    """Return all tables as Markdown."""
    parts = [headline_table(standings), *(arm_table(standings, task) for task in tasks_of(standings))]
    parts += [ablation_table(standings), kill_table(kills), not_run(standings)]
    return "\n\n".join(part for part in parts if part)


def not_run(standings: Standings) -> str:
    """Name the arms without a run."""
    ran = {arm for _, _, arm in standings.runs}
    titles = [row.title for arm, row in ARMS.items() if arm not in ran]
    return f"Not run: {'; '.join(titles)}." if titles else ""


def headline_table(standings: Standings) -> str:
    """Return the ratios: a row each, by task and over all."""
    tasks = tasks_of(standings)
    rows = []
    for name, (_, _, text) in RATIOS.items():
        for level in LEVELS:
            cells = [headline(standings, task)[name][level] for task in [*tasks, None]]
            rows.append([text, "end of its budget" if level == "end" else "half of its budget", *map(ratio, cells)])
    return table(["how many times sooner", "level: the reference's at", *tasks, "**median of all**"], rows, 2)


def arm_table(standings: Standings, task: str) -> str:
    """Return a row for each arm: medians over the seeds."""
    rows = []
    for arm in ARMS:
        runs = [run for run in standings.runs.values() if (run.task, run.arm) == (task, arm)]
        if not runs:
            continue
        reached, cpu = [], []
        for run in runs:
            reference = standings.best_of(task, run.seed, SCRIPT_ARMS)
            level = standings.level(task, run.seed, reference, "end") if reference else float("inf")
            seconds = standings.seconds_to(task, run.seed, arm, level)
            reached.append(seconds)
            cpu.append(run.cpu_at(seconds) if seconds else None)
        rows.append(
            [
                ARMS[arm].title,
                f"{median(len(run.trials) for run in runs):.0f}",
                f"{median(standings.end_volume(task, run.seed, arm) for run in runs):.3f}",
                seconds_text(reached, device_seconds),
                seconds_text(reached),
                seconds_text(cpu),
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
    """Return what forcetune loses without each of its parts; the level is forcetune's own after half of its budget."""
    rows = []
    for arm, row in ARMS.items():
        if not row.without:
            continue
        slower, kept = [], []
        for task, seed in standings.starts:
            if not {(task, seed, arm), (task, seed, "forcetune")} <= standings.runs.keys():
                continue
            level = standings.level(task, seed, "forcetune", ABLATION_LEVEL)
            ours, others = (standings.seconds_to(task, seed, name, level) for name in ("forcetune", arm))
            if ours is None:
                continue  # forcetune had no front yet
            slower.append(others / ours if others else float("inf"))
            volume = standings.end_volume(task, seed, "forcetune")
            kept.append(standings.end_volume(task, seed, arm) / volume if volume else float("nan"))
        if slower:
            longer = median(slower)
            rows.append([row.title, "never" if longer == float("inf") else f"{longer:.2f}", f"{median(kept):.3f}"])
    head = [
        "part switched off",
        "time to forcetune's level at half of its budget, over forcetune's",
        "hypervolume kept",
    ]
    return table(head, rows, 1) if rows else ""


def kill_table(kills: dict[str, Any]) -> str:
    """Return what became of the trials of each killed arm, a row for each of its stores."""
    rows = []
    for arm, content in kills.items():
        for store in content["stores"]:
            numbers = [
                f"{store[name]} of {content['wanted']}" if name == "finished" else str(store[name])
                for name in ("finished", "lost", "doubled", "stuck")
            ]
            end = "ended" if content["exit_code"] == 0 else f"exit code {content['exit_code']}"
            rows.append([ARMS[arm].title, store["store"], *numbers, end])
    head = ["killed and resumed", "store", "finished", "lost", "doubled", "stuck", "second run"]
    return table(head, rows, 2) if rows else ""


def picture(standings: Standings, path: Path) -> None:
    """Draw the hypervolume over device seconds, the median of the seeds, a panel for each task."""
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
    return [task for task in TASKS if any(of == task for of, _ in standings.starts)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """Write a table in Markdown; the first `texts` columns are text, the others are numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def ratio(value: float | None) -> str:
    """Write a ratio; 0 stands for a level that was never reached."""
    return "" if value is None else f"{value:.2f}" if value else "never"


def seconds_text(values: Sequence[float | None], scale: Any = float) -> str:
    """Write the median of times, of which those that are None are never reached."""
    middle = median(float("inf") if value is None else scale(value) for value in values)
    return "never" if middle == float("inf") else f"{middle:.1f}"
