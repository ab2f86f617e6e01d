"""forcetune on a GPU: its tests there, the training step, masks of large networks, and a whole study.

    make gpu                          # on a machine with a GPU
    make gpu ARGS=--device=cpu        # the same way in a small size; the figures of a CPU mean nothing

Runs its stages in turn, each as a process of its own with a time limit, so that one that fails or hangs costs only its
own figures. Needs no installed forcetune: torch, torchvision, Ray, Optuna, MLflow and pydantic have to be importable.
Every figure is printed with the device's name and kept in one JSON file, which is written anew after each stage. A
figure that was not measured says so. Exit code 1 where a test or a stage failed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIGURE = "figure:"  # begins a line with which a stage shows a figure
SMALL_FACTOR = 4  # times a stage's limit where it runs on a CPU

# each stage's seconds on a GPU: six minutes in all
LIMITS_S = {"tests": 140, "steps": 80, "masks": 30, "study": 110}
INTERRUPT_S = 10  # that a stage gets to end by itself once its time is up
TESTS = ("data", "masks", "training", "search")  # files of tests/gpu; those that start Ray are last

FIGURES = {
    "images_s_baseline": "ResNet-20, images/s: baseline (naive.py: DataLoader with PIL, float32)",
    "images_s_eager": "ResNet-20, images/s: eager bf16, data on the device",
    "images_s_captured": "ResNet-20, images/s: forcetune",
    "images_s_compiled": "ResNet-20, images/s: forcetune with torch.compile",
    "over_baseline": "ResNet-20: forcetune over the baseline (aim 20)",
    "over_eager": "ResNet-20: forcetune over eager bf16 (aim 4)",
    "compile_s": "ResNet-20: seconds that the first pass takes longer with torch.compile, capture included",
    "kernel_share": "ResNet-20: share of wall time in which kernels run",
    "kernel_share_eager": "ResNet-20: the same share of eager bf16",
    "evaluation_share": "ResNet-20: seconds of validation over those of a training pass, as many images in each",
    "roofline_share": "ResNet-18: share of the roofline of forward and backward that a whole step reaches (aim 0.5)",
    "mask_resnet50_s": "ResNet-50, 32x32: seconds of a mask by FORCE, 60 steps",
    "mask_resnet50_over_published": "ResNet-50: the published procedure over ours, seconds a step",
    "mask_vgg19_s": "VGG-19, 32x32: seconds of a mask by FORCE, 60 steps",
    "mask_vgg19_over_published": "VGG-19: the published procedure over ours, seconds a step",
    "study_trials": "search_spaces/gpu.yaml: trials",
    "study_best_accuracy": "search_spaces/gpu.yaml: highest validation accuracy",
    "study_s": "search_spaces/gpu.yaml: seconds of the whole command",
    "study_trials_h": "search_spaces/gpu.yaml: trials an hour, of the whole command",
    "study_steady_trials_h": "search_spaces/gpu.yaml: trials an hour, from the first trial's start to the last's end",
    "eager_trials_h": "a trial of it as an eager bf16 loop, one after another: trials an hour",
    "baseline_trials_h": "a trial of it as the baseline, a process each: trials an hour",
    "study_over_eager": "the study over the eager loop, trials an hour of the whole command (aim 10)",
    "study_over_baseline": "the study over the baseline, trials an hour of the whole command (aim 50)",
    "steady_over_eager": "the study over the eager loop, its start and end left out",
    "steady_over_baseline": "the study over the baseline, its start and end left out",
    **{f"sharing_{count}": f"{count} trainings share the GPU: images/s of all, over one alone" for count in (2, 4, 8)},
    "memory_trial_mib": "memory of a GPU that a training takes, CUDA context included: MiB",
}


def main() -> None:
    """Run the stages, print each figure and keep all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in a small size")
    parser.add_argument("--stages", nargs="+", choices=LIMITS_S, default=list(LIMITS_S), help="those to run")
    parser.add_argument("--json", default="gpu.json", help="the file of all figures")
    arguments = parser.parse_args()
    record = describe(arguments.device)
    failed = False
    for stage in arguments.stages:
        limit = LIMITS_S[stage] * (1 if arguments.device == "cuda" else SMALL_FACTOR)
        started = time.monotonic()
        failed |= not run(stage, arguments.device, limit, record)
        record["seconds"][stage] = round(time.monotonic() - started, 1)
        Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
    print(f"\nkept in {arguments.json}")
    sys.exit(failed)


def describe(device: str) -> dict[str, Any]:
    """Return where and with what is measured. Ends with exit code 2 where the GPU that is asked for is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here, so there is nothing to measure; `make gpu ARGS=--device=cpu` runs the same in a "
              "small size", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU, small size: figures mean nothing",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "seconds": {},
        "tests": {},
        "figures": {},
    }


def run(stage: str, device: str, limit: float, record: dict[str, Any]) -> bool:
    """Run a stage for at most `limit` seconds, pass on what it prints and record its figures; whether it succeeded."""
    print(f"\n# {stage} (at most {limit:g} s)", flush=True)
    report = ROOT / f".gpu-tests-{os.getpid()}.xml"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-u", *command(stage, device, report)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    overdue = threading.Event()
    timer = threading.Timer(limit, end, (process, overdue))
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(FIGURE):
            name, value = line.removeprefix(FIGURE).split()
            record["figures"][name] = float(value)
            line = f"{FIGURES[name]}: {shown(float(value))}  [{record['device']}]\n"
        print(line, end="", flush=True)
    code = process.wait()
    timer.cancel()
    if stage == "tests" and report.exists():
        record["tests"] = outcomes(report)
        report.unlink()
    if overdue.is_set():
        print(f"# {stage} was ended after {limit:g} s", flush=True)
    return code == 0


def command(stage: str, device: str, report: Path) -> list[str]:
    """Return the arguments of Python that run a stage."""
    if stage != "tests":
        return [f"benchmarks/gpu_{stage}.py", "--device", device, *([] if device == "cuda" else ["--small"])]
    files = [f"tests/gpu/test_gpu_{name}.py" for name in TESTS]
    # warnings of a Python and of packages that were never tried together must not fail tests
    options = ["-W", "default", "--tb=short", "-rfE", "--durations=10", f"--junitxml={report}"]
    return ["-m", "pytest", *files, f"--device={device}", "-q", *options]


def end(process: "subprocess.Popen[str]", overdue: threading.Event) -> None:
    """End a stage whose time is up: by an interrupt, so that pytest says what it has, then with all that it started."""
    overdue.set()
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(INTERRUPT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def outcomes(report: Path) -> dict[str, Any]:
    """Return the numbers of tests that passed, failed and were skipped, and the names of those that failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases
              if case.find("failure") is not None or case.find("error") is not None]  # fmt: skip
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": failed}


def table(record: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, under a line that says where they were measured."""
    tests = record["tests"]
    lines = [
        f"{record['device']}, {record['cores']} cores, torch {record['torch']}, Python {record['python']}, "
        f"{record['date']}, {sum(record['seconds'].values()):.0f} s",
        "",
        "| figure | |",
        "|---|---:|",
    ]
    if tests:
        counts = f"{tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped"
        lines.append(f"| tests/gpu | {counts} |")
    measured = record["figures"]
    for name, meaning in FIGURES.items():
        lines.append(f"| {meaning} | {shown(measured[name]) if name in measured else 'not measured'} |")
    return "\n" + "\n".join(lines)


def shown(value: float) -> str:
    """Return a number with three digits, or whole where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def stage_arguments(description: str | None) -> argparse.Namespace:
    """Return the arguments of a stage: `device`, and `small` where its figures mean nothing."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    arguments = parser.parse_args()
    if arguments.small:
        import torch

        torch.set_num_threads(1)
    return arguments


def show(name: str, value: float) -> None:
    """Show a figure of FIGURES to whoever runs the stage."""
    if name not in FIGURES:
        raise ValueError(f"{name} is no figure of gpu.py")
    print(f"{FIGURE}{name} {value:.6g}", flush=True)


if __name__ == "__main__":
    main()
