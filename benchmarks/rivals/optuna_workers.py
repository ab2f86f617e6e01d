"""A rival: Optuna alone, with worker processes on one SQLite storage and MLflow's callback.

    PYTHONPATH=.:benchmarks python benchmarks/rivals/optuna_workers.py --task digits --sampler tpe

It starts optuna_worker.py once for each slot, with the same options. The callback is that of optuna-integration where
that is installed; otherwise the worker logs the same. The same command after a crash goes on in the same storage;
heartbeats let Optuna notice trials whose worker has died.
"""

import subprocess
import sys
from pathlib import Path

OPTUNA_WORKERS = 2
WORKER_SCRIPT = Path(__file__).with_name("optuna_worker.py")


def main() -> None:
    """Start the workers and wait for them, without any heavy import."""
    workers = [
        subprocess.Popen([sys.executable, WORKER_SCRIPT, *sys.argv[1:], "--worker", str(i)])
        for i in range(OPTUNA_WORKERS)
    ]
    sys.exit(max(worker.wait() for worker in workers))


if __name__ == "__main__":
    main()
