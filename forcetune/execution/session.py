"""The connection of a search to Ray, from its first trial to its end, and what a signal does to it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from forcetune.errors import StoppedError
from forcetune.execution import environment
from forcetune.search.printing import print_line
from forcetune.study import Priority, ResolvedResources, Study

if TYPE_CHECKING:
    from forcetune.execution.shares import ExclusiveSlots
    from forcetune.search.driver import Driver

INTERRUPT_MLFLOW_PATIENCE_S = 2.0  # for MLflow to take what is due when a search is interrupted


class RaySession:
    """Ray, connected from the first driver that has trials to run until the end of the search."""

    def __init__(self, study: Study, console: Console, priority: Priority) -> None:
        self._study = study
        self._console = console
        self._priority = priority
        self._stack = ExitStack()
        self._data_reads: list[tuple[str, Any]] = []
        self._placement: tuple[ResolvedResources, ExclusiveSlots] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Connect to a cluster, and let its nodes read the data; a Ray of this process is started later."""
        if environment.is_shared():
            from forcetune.execution.nodes import start_data_reads

            self._connect()
            self._data_reads = start_data_reads(self._study)

    def start(self) -> tuple[ResolvedResources, "ExclusiveSlots"]:
        """Connect, once; return the resources of a trial, and the study's share of the slots.

        Raises:
            InputError: No trial fits, or a node of a cluster does not have the data.
        """
        from forcetune.execution import nodes

        if self._placement is None:
            if not environment.is_shared():
                self._connect()
            resources = nodes.resolve_resources(self._study, self._console)
            self._placement = resources, self._assign_slots(resources)
            nodes.check_data_reads(self._data_reads)
        return self._placement

    def _assign_slots(self, resources: ResolvedResources) -> "ExclusiveSlots":
        """Return the slots of the study: all slots of a Ray of this process, or a fair share of a cluster's.

        Raises:
            InputError: Not even one trial fits.
        """
        from forcetune.execution.nodes import count_fitting, count_slots
        from forcetune.execution.shares import ExclusiveSlots, FairShare

        slots = count_slots(resources)
        if not environment.is_shared():
            return ExclusiveSlots(slots)
        return FairShare(self._priority, resources.concurrent, lambda: count_fitting(resources))

    def _connect(self) -> None:
        from forcetune.execution.connection import connect_ray

        self._stack.enter_context(connect_ray())
        self._stack.enter_context(_interruptible())

    def drive(self, driver: "Driver") -> None:
        """Run a driver to its end; hand its trials back where an exception ends it early."""
        from forcetune.execution import cluster
        from forcetune.execution.actors import Worker
        from forcetune.execution.parallel import ParallelWorker

        if driver.is_finished:
            driver.close()
            return
        resources, share = self.start()
        worker = ParallelWorker if resources.processes > 1 else Worker
        driver.describe()
        share.set_claimant(driver.ledger.claimant)
        try:
            with driver.progress, share:
                cluster.run(driver, resources, share, worker)
        except BaseException:
            running = driver.hand_back()
            with suppress(StoppedError):  # the exception that ended the search matters more
                driver.close(INTERRUPT_MLFLOW_PATIENCE_S)
            with suppress(OSError):  # a full disk may be the log's too
                print_line(self._console, f"{running} running trials handed back, {driver.progress.done_of_total} done")
            raise
        driver.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end a search as SIGINT does. Enter this after Ray has started: Ray by itself aborts on SIGTERM.

    In another thread than the main one, as some notebooks have it, Python takes no handler of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job that is stopped receives the signal twice
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
