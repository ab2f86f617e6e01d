"""The race: the device time until forcetune and its rivals reach a front of a given hypervolume.

    python benchmarks/race.py all                                    # every run, the kill test, fresh seeds, tables
    python benchmarks/race.py run --task digits --arm tune --seed 0  # a single run
    python benchmarks/race.py report                                 # the tables and the picture of the present runs

Each run is a command in an empty folder. Every run gets the same seconds, two slots and one thread a trial, and all its
processes end with its budget. The arms of the ratios run first. A run that has its file is not run again, so the same
command goes on where it was ended. Device seconds are slots times wall seconds since the command. The score is the
hypervolume of the front that the run itself sees; the accuracies are measured again with fresh seeds on the test
images, outside the budget.

Optuna's own MLflow callback (optuna-integration) and Syne Tune are used where they are installed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

RACE_FOLDER = Path(__file__).parent
sys.path[:0] = [str(RACE_FOLDER), str(RACE_FOLDER / "rivals"), str(RACE_FOLDER.parent)]
os.environ["PYTHONPATH"] = ":".join(sys.path[:3])  # also for the processes that measure with fresh seeds

from racing.arms import ARMS  # noqa: E402
from racing.fresh import fresh_accuracies, measure_fresh  # noqa: E402
from racing.kills import kill_and_resume  # noqa: E402
from racing.processes import run_for  # noqa: E402
from racing.report import draw_picture, tables  # noqa: E402
from racing.results import Standings, headline, read_runs  # noqa: E402
from recipe import ENDLESS_TRIALS, TASKS  # noqa: E402

from forcetune import __version__  # noqa: E402

BUDGET_S = 100.0
SEEDS = 3
FRESH_SEEDS = 2
FORCETUNE_GRACE_S = 10.0  # forcetune's stores are read after its end; the rivals write each trial as it ends
KILL_TASK = "digits"
# the arms of the ratios
HEADLINE_ARMS = ("forcetune", "tune", "tune_asha", "parts", "parts_asha", "naive", "without_stopping")
KILLED_ARMS = ("forcetune", "tune", "tune_asha", "optuna_tpe", "syne_tune", "naive")
VERSIONS_FILE = RACE_FOLDER / "race.json"
PICTURE_FILE = RACE_FOLDER.parent / "docs" / "race.svg"


def main() -> None:
    """Run the subcommand that the command line names."""
    arguments = parse_arguments()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    planned_runs: list[tuple[str, str, int]] = []
    if arguments.command == "run":
        planned_runs = [(arguments.task, arguments.arm, arguments.seed)]
    elif arguments.command == "all":
        other_arms = [arm for arm in ARMS if arm not in HEADLINE_ARMS]
        planned_runs = [
            (task, arm, seed)
            for arms in (HEADLINE_ARMS, other_arms)
            for seed in range(arguments.seeds)
            for task in arguments.task or TASKS
            for arm in arms
            if arm in (arguments.arm or ARMS)
        ]
    if arguments.command in ("all", "run"):
        for number, (task, arm, seed) in enumerate(planned_runs, 1):
            print(f"{number} of {len(planned_runs)}: {task}, {arm}, seed {seed}: ", end="", flush=True)
            print(run(folder, task, arm, seed, arguments.seconds), flush=True)
    if arguments.command in ("all", "kill"):
        for name in arguments.arm or KILLED_ARMS:
            if name in KILLED_ARMS:
                print(f"killed and resumed, {name}: ", end="", flush=True)
                print(kill(folder, name), flush=True)
    if arguments.command in ("all", "report"):
        report(folder, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, default=RACE_FOLDER / "race-results", help="folder of the results")
    common.add_argument("--seconds", type=float, default=BUDGET_S, help="budget of a run, wall time")
    common.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each task and arm")
    common.add_argument("--fresh", type=int, default=FRESH_SEEDS, help="fresh seeds of each configuration on a front")
    common.add_argument("--picture", type=Path, default=PICTURE_FILE, help="the file of the picture")
    common.add_argument("--append", action="store_true", help=f"append this version's row to {VERSIONS_FILE.name}")
    commands = parser.add_subparsers(dest="command", required=True)
    all_parser = commands.add_parser("all", parents=[common], help="every run, the kill test and the report")
    all_parser.add_argument("--task", nargs="*", choices=TASKS, help="these tasks only")
    all_parser.add_argument("--arm", nargs="*", choices=ARMS, help="these arms only")
    run_parser = commands.add_parser("run", parents=[common], help="a single run")
    run_parser.add_argument("--task", choices=TASKS, required=True)
    run_parser.add_argument("--arm", choices=ARMS, required=True)
    run_parser.add_argument("--seed", type=int, default=0)
    kill_parser = commands.add_parser("kill", parents=[common], help="the kill test alone")
    kill_parser.add_argument("--arm", nargs="*", choices=KILLED_ARMS, help="these arms only")
    commands.add_parser("report", parents=[common], help="fresh seeds, the tables and the picture of what is there")
    return parser.parse_args()


def run(folder: Path, task: str, name: str, seed: int, seconds: float) -> str:
    """Run an arm for its budget and write its trials, unless its file exists; return a short report."""
    arm, path = ARMS[name], folder / "runs" / f"{task}-{name}-{seed}.json"
    if path.exists():
        recorded_s = json.loads(path.read_text())["budget_s"]
        if recorded_s != seconds:
            raise SystemExit(
                f"{path} has a budget of {recorded_s:g} s: give --seconds {recorded_s:g} or another --folder"
            )
        return "there"
    if arm.is_missing:
        return f"skipped, {arm.requires} is not installed"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary_folder:
        run_folder = Path(temporary_folder)
        command = arm.prepare(run_folder, task, seed, ENDLESS_TRIALS)
        usage = run_for(command, run_folder, arm.environment, seconds, 0.0 if arm.script else FORCETUNE_GRACE_S)
        trials = [trial for trial in arm.read(run_folder, usage.started) if trial.ended_s <= seconds]
        log = (run_folder / "log.txt").read_text(errors="replace")
    if usage.ended_itself:
        (folder / f"{path.stem}.log").write_text(log)
        return f"FAILED: it ended after {usage.wall_s:.0f} s, see {path.stem}.log"
    content = {
        "task": task,
        "arm": name,
        "seed": seed,
        "budget_s": seconds,
        **provenance(),
        **asdict(usage),
        "trials": [asdict(trial) for trial in trials],
    }
    write(path, content)
    return f"{len(trials)} trials, {usage.cpu_s:.0f} CPU s, {usage.other_cpu_s / usage.wall_s:.2f} cores busy besides"


def kill(folder: Path, name: str) -> str:
    """Kill an arm once and resume it, unless its file exists; return a short report."""
    arm, path = ARMS[name], folder / "kills" / f"{name}.json"
    if path.exists():
        return "there"
    if arm.is_missing:
        return f"skipped, {arm.requires} is not installed"
    content = kill_and_resume(arm, KILL_TASK, seed=0)
    write(path, content)
    return json.dumps(content["stores"])


def report(folder: Path, arguments: argparse.Namespace) -> None:
    """Measure missing fresh accuracies; print the tables, draw the picture and append this version's row."""
    runs = read_runs(folder / "runs")
    measure_fresh(unique(config for run in runs for config in run.fronts), folder / "fresh.jsonl", arguments.fresh)
    standings = Standings(runs, fresh_accuracies(folder / "fresh.jsonl"))
    kill_files = {name: path for name in KILLED_ARMS if (path := folder / "kills" / f"{name}.json").exists()}
    markdown = tables(standings, {name: json.loads(path.read_text()) for name, path in kill_files.items()})
    (folder / "race.md").write_text(markdown + "\n")
    print(markdown)
    draw_picture(standings, arguments.picture)
    if arguments.append:
        rows = json.loads(VERSIONS_FILE.read_text()) if VERSIONS_FILE.exists() else []
        of_runs = {name: runs[0].content[name] for name in ("version", "commit", "date")}
        row = {**of_runs, "budget_s": runs[0].budget_s, "runs": len(runs), **headline(standings)}
        write(VERSIONS_FILE, [*rows, row])


def unique(configs: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the configurations without repetitions."""
    return list({json.dumps(config, sort_keys=True): config for config in configs}.values())


def provenance() -> dict[str, str]:
    """Return the version of forcetune, the commit and the date."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RACE_FOLDER, capture_output=True, text=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"version": __version__, "commit": commit.stdout.strip(), "date": today}


def write(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_suffix(".part")
    partial_file.write_text(json.dumps(content) + "\n")
    partial_file.rename(path)


if __name__ == "__main__":
    main()
