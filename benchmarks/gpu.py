"""forcetune on a GPU: its tests there, the training step, masks of large networks, and a whole study.

    make gpu                          # on a machine with a GPU
    make gpu ARGS=--device=cpu        # the same way in a small size; the figures of a CPU mean nothing

The stages run in turn, each as a process of its own with a time limit, so that a stage that fails or hangs costs only
its own figures. No installed forcetune is needed, but torch, torchvision, Ray, Optuna, MLflow and pydantic must be
importable. Every figure is printed with the device's name and kept in one JSON file, which is written anew after each
stage. The table marks the figures that were not measured. The exit code is 1 where a test or a stage failed.
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
FIGURE_PREFIX = "figure:"  # the beginning of a line by which a stage shows a figure
SMALL_LIMIT_FACTOR = 4  # multiplies the limit of a stage that runs on a CPU

# the limit of each stage on a GPU: six minutes in all
STAGE_LIMITS_S = {"tests": 140, "steps": 80, "masks": 30, "study": 110}
INTERRUPT_GRACE_S = 10  # the time that a stage has to end by itself once its limit is reached
TEST_TOPICS = ("data", "masks", "training", "search")  # of the files in tests/gpu; the files that start Ray are last

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
    """Run the stages, print each figure and write all of them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in a small size")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGE_LIMITS_S, default=list(STAGE_LIMITS_S), help="those to run"
    )
    parser.add_argument("--json", default="gpu.json", help="the file of all figures")
    arguments = parser.parse_args()
    record = describe(arguments.device)
    failed = False
    for stage in arguments.stages:
        limit_s = STAGE_LIMITS_S[stage] * (1 if arguments.device == "cuda" else SMALL_LIMIT_FACTOR)
        started = time.monotonic()
        failed |= not run_stage(stage, arguments.device, limit_s, record)
        record["seconds"][stage] = round(time.monotonic() - started, 1)
        Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
    print(f"\nkept in {arguments.json}")
    sys.exit(failed)


def describe(device: str) -> dict[str, Any]:
    """Return an empty record of figures with its device and versions; exit with code 2 where the GPU is missing."""
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


def run_stage(stage: str, device: str, limit_s: float, record: dict[str, Any]) -> bool:
    """Run a stage for at most `limit_s` seconds, print its output, record its figures; return whether it succeeded."""
    print(f"\n# {stage} (at most {limit_s:g} s)", flush=True)
    test_report = ROOT / f".gpu-tests-{os.getpid()}.xml"
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-u", *stage_command(stage, device, test_report)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    overdue = threading.Event()
    timer = threading.Timer(limit_s, end_stage, (process, overdue))
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(FIGURE_PREFIX):
            name, value = line.removeprefix(FIGURE_PREFIX).split()
            record["figures"][name] = float(value)
            line = f"{FIGURES[name]}: {format_figure(float(value))}  [{record['device']}]\n"
        print(line, end="", flush=True)
    exit_code = process.wait()
    timer.cancel()
    if stage == "tests" and test_report.exists():
        record["tests"] = read_test_report(test_report)
        test_report.unlink()
    if overdue.is_set():
        print(f"# {stage} was ended after {limit_s:g} s", flush=True)
    return exit_code == 0


def stage_command(stage: str, device: str, test_report: Path) -> list[str]:
    """Return the arguments of Python that run a stage."""
    if stage != "tests":
        return [f"benchmarks/gpu_{stage}.py", "--device", device, *([] if device == "cuda" else ["--small"])]
    files = [f"tests/gpu/test_gpu_{name}.py" for name in TEST_TOPICS]
    # warnings from an untried combination of Python and packages must not fail tests
    options = ["-W", "default", "--tb=short", "-rfE", "--durations=10", f"--junitxml={test_report}"]
    return ["-m", "pytest", *files, f"--device={device}", "-q", *options]


def end_stage(process: "subprocess.Popen[str]", overdue: threading.Event) -> None:
    """Interrupt a stage whose time is up, so that pytest prints its results, then kill it with all its processes."""
    overdue.set()
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(INTERRUPT_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_test_report(report: Path) -> dict[str, Any]:
    """Return the numbers of passed and skipped tests, and the names of the failed tests."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases
              if case.find("failure") is not None or case.find("error") is not None]  # fmt: skip
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": failed}


def table(record: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, below a line that describes the machine."""
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
        lines.append(f"| {meaning} | {format_figure(measured[name]) if name in measured else 'not measured'} |")
    return "\n" + "\n".join(lines)


def format_figure(value: float) -> str:
    """Return a number with three digits, or rounded to a whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def stage_arguments(description: str | None) -> argparse.Namespace:
    """Parse the arguments of a stage: `device`, and `small` for a trial run whose figures mean nothing."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    arguments = parser.parse_args()
    if arguments.small:
        import torch

        torch.set_num_threads(1)
    return arguments


def show(name: str, value: float) -> None:
    """Print a figure of FIGURES in the form that the process running the stage reads."""
    if name not in FIGURES:
        raise ValueError(f"{name} is no figure of gpu.py")
    print(f"{FIGURE_PREFIX}{name} {value:.6g}", flush=True)


if __name__ == "__main__":
    main()
