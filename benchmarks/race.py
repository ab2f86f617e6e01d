"""The race: device time until a front of a given hypervolume stands, of forcetune and of what one would run instead.

    python benchmarks/race.py all                                    # every run, the kill test, fresh seeds, tables
    python benchmarks/race.py run --task digits --arm tune --seed 0  # a single run
    python benchmarks/race.py report                                 # the tables and the picture of what is there

Each run is a command in an empty folder that gets the same seconds, two slots and one thread a trial; all its processes
end with its budget. The arms of the ratios run first, and a run that has its file is not run again: the same command
goes on where it was ended. Device seconds are slots times wall seconds since the command. The score is the hypervolume
of the front that the run itself sees, its accuracies measured again with fresh seeds on the test images, outside the
budget.

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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "rivals"), str(HERE.parent)]
os.environ["PYTHONPATH"] = ":".join(sys.path[:3])  # for the processes that measure with fresh seeds

from racing.arms import ARMS  # noqa: E402
from racing.fresh import fresh_accuracies, measure_fresh  # noqa: E402
from racing.kills import kill_and_resume  # noqa: E402
from racing.processes import run_for  # noqa: E402
from racing.report import picture, tables  # noqa: E402
from racing.results import Standings, headline, read_runs  # noqa: E402
from recipe import ENDLESS_TRIALS, TASKS  # noqa: E402

from forcetune import __version__  # noqa: E402

BUDGET_S = 100.0
SEEDS = 3
FRESH_SEEDS = 2
GRACE_S = 10.0  # for forcetune, whose stores are read once it has ended; the rivals write each trial as it ends
KILL_TASK = "digits"
HEADLINE_ARMS = ("forcetune", "tune", "tune_asha", "parts", "parts_asha", "naive", "without_stopping")  # run first
KILLED_ARMS = ("forcetune", "tune", "tune_asha", "optuna_tpe", "syne_tune", "naive")
VERSIONS = HERE / "race.json"
PICTURE = HERE.parent / "docs" / "race.svg"


def main() -> None:
    """Do what the command line asks for."""
    arguments = parse_arguments()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted: list[tuple[str, str, int]] = []
    if arguments.command == "run":
        wanted = [(arguments.task, arguments.arm, arguments.seed)]
    elif arguments.command == "all":
        others = [arm for arm in ARMS if arm not in HEADLINE_ARMS]
        wanted = [
            (task, arm, seed)
            for arms in (HEADLINE_ARMS, others)
            for seed in range(arguments.seeds)
            for task in arguments.task or TASKS
            for arm in arms
            if arm in (arguments.arm or ARMS)
        ]
    if arguments.command in ("all", "run"):
        for number, (task, arm, seed) in enumerate(wanted, 1):
            print(f"{number} of {len(wanted)}: {task}, {arm}, seed {seed}: ", end="", flush=True)
            print(run(folder, task, arm, seed, arguments.seconds), flush=True)
    if arguments.command in ("all", "kill"):
        for name in arguments.arm or KILLED_ARMS:
            if name in KILLED_ARMS:
                print(f"killed and resumed, {name}: ", end="", flush=True)
                print(kill(folder, name), flush=True)
    if arguments.command in ("all", "report"):
        report(folder, arguments)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, default=HERE / "race-results", help="folder of the results")
    common.add_argument("--seconds", type=float, default=BUDGET_S, help="budget of a run, wall time")
    common.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each task and arm")
    common.add_argument("--fresh", type=int, default=FRESH_SEEDS, help="fresh seeds of each configuration on a front")
    common.add_argument("--picture", type=Path, default=PICTURE, help="the file of the picture")
    common.add_argument("--append", action="store_true", help=f"append this version's row to {VERSIONS.name}")
    commands = parser.add_subparsers(dest="command", required=True)
    some = commands.add_parser("all", parents=[common], help="every run, the kill test and the report")
    some.add_argument("--task", nargs="*", choices=TASKS, help="these tasks only")
    some.add_argument("--arm", nargs="*", choices=ARMS, help="these arms only")
    single = commands.add_parser("run", parents=[common], help="a single run")
    single.add_argument("--task", choices=TASKS, required=True)
    single.add_argument("--arm", choices=ARMS, required=True)
    single.add_argument("--seed", type=int, default=0)
    killed = commands.add_parser("kill", parents=[common], help="the kill test alone")
    killed.add_argument("--arm", nargs="*", choices=KILLED_ARMS, help="these arms only")
    commands.add_parser("report", parents=[common], help="fresh seeds, the tables and the picture of what is there")
    return parser.parse_args()


def run(folder: Path, task: str, name: str, seed: int, seconds: float) -> str:
    """Run an arm for its budget and keep its trials, unless its file is there; return a word on it."""
    arm, path = ARMS[name], folder / "runs" / f"{task}-{name}-{seed}.json"
    if path.exists():
        before = json.loads(path.read_text())["budget_s"]
        if before != seconds:
            raise SystemExit(f"{path} has a budget of {before:g} s: give --seconds {before:g} or another --folder")
        return "there"
    if arm.missing:
        return f"skipped, {arm.requires} is not installed"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        work = Path(made)
        command = arm.prepare(work, task, seed, ENDLESS_TRIALS)
        usage = run_for(command, work, arm.environment, seconds, 0.0 if arm.script else GRACE_S)
        trials = [trial for trial in arm.read(work, usage.started) if trial.ended_s <= seconds]
        log = (work / "log.txt").read_text(errors="replace")
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
    """Kill an arm once and resume it, unless its file is there; return a word on it."""
    arm, path = ARMS[name], folder / "kills" / f"{name}.json"
    if path.exists():
        return "there"
    if arm.missing:
        return f"skipped, {arm.requires} is not installed"
    content = kill_and_resume(arm, KILL_TASK, seed=0)
    write(path, content)
    return json.dumps(content["stores"])


def report(folder: Path, arguments: argparse.Namespace) -> None:
    """Measure with fresh seeds what lacks them; print the tables, draw the picture and append this version's row."""
    runs = read_runs(folder / "runs")
    measure_fresh(unique(config for run in runs for config in run.fronts), folder / "fresh.jsonl", arguments.fresh)
    standings = Standings(runs, fresh_accuracies(folder / "fresh.jsonl"))
    kills = {name: path for name in KILLED_ARMS if (path := folder / "kills" / f"{name}.json").exists()}
    text = tables(standings, {name: json.loads(path.read_text()) for name, path in kills.items()})
    (folder / "race.md").write_text(text + "\n")
    print(text)
    picture(standings, arguments.picture)
    if arguments.append:
        rows = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else []
        row = {**provenance(), "budget_s": runs[0].budget_s, "runs": len(runs), **headline(standings)}
        write(VERSIONS, [*rows, row])


def unique(configs: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return each configuration once."""
    return list({json.dumps(config, sort_keys=True): config for config in configs}.values())


def provenance() -> dict[str, str]:
    """Return the version, the commit and the date."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"version": __version__, "commit": commit.stdout.strip(), "date": today}


def write(path: Path, content: Any) -> None:
    """Write a file of JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content) + "\n")
    part.rename(path)


if __name__ == "__main__":
    main()
