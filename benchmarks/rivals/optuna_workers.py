"""A rival: Optuna alone, worker processes on one SQLite storage, with MLflow's callback.

    PYTHONPATH=.:benchmarks python benchmarks/rivals/optuna_workers.py --task digits --sampler tpe

It starts optuna_worker.py as often as there are slots, with the same options. The callback is that of
optuna-integration where it is installed; else the worker logs the same. The same command after a crash goes on in the
same storage; heartbeats let Optuna notice trials whose worker is gone.
"""

import subprocess
import sys
from pathlib import Path

WORKERS = 2
SCRIPT = Path(__file__).with_name("optuna_worker.py")


def main() -> None:
    """Start the workers and wait for them; nothing heavy is imported here."""
    workers = [subprocess.Popen([sys.executable, SCRIPT, *sys.argv[1:], "--worker", str(i)]) for i in range(WORKERS)]
    sys.exit(max(worker.wait() for worker in workers))


if __name__ == "__main__":
    main()
