"""Training steps as CUDA graphs: one launch in place of hundreds, for a network too small to keep a GPU busy.

A graph holds on to the addresses of the tensors that it was captured with. So it is captured once for an architecture
and a batch size, in a process that lives on, and each training overwrites weights, masks, optimizer and learning rate.
"""

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.training.part import CompactedNetwork
from forcetune.training.step import Recipe, Step, as_it_was

log = logging.getLogger(__name__)

DEVICE = "cuda"
WARM_UP = 3  # steps until libraries have chosen their kernels and the optimizer has its state
KEPT = 2  # architectures, and batch sizes of each, whose graphs are kept: each has the memory of a step's activations

_steps: OrderedDict[Hashable, "Captured"] = OrderedDict()


@dataclass(frozen=True)
class Graph:
    """A captured step: what it reads, what it leaves, and how to run it."""

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    replay: Callable[[], None]


class Captured(Step):
    """Takes steps by replaying a graph; batches of another shape than the first one's are taken one by one."""

    def __init__(self, network: nn.Module, masks: dict[str, Tensor], recipe: Recipe) -> None:
        device = next(network.parameters()).device
        super().__init__(network, masks, recipe, lr=torch.tensor(0.0, device=device))
        self._graphs: dict[torch.Size, Graph | None] = {}

    def begin(self, masks: dict[str, Tensor]) -> None:
        """Another training, whose weights are in the network."""
        self.held.change(masks)
        self._remember({"state": {}})
        self.compile_seconds = 0.0
        self._shape = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        self._meet(inputs, targets)
        if inputs.shape != self._shape:
            return super().__call__(inputs, targets, lr)
        if inputs.shape not in self._graphs:
            while len(self._graphs) >= KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[inputs.shape] = self._capture(inputs, targets)
        graph = self._graphs[inputs.shape]
        if graph is None:
            return super().__call__(inputs, targets, lr)
        self._set_lr(lr)
        graph.inputs.copy_(inputs)
        graph.targets.copy_(targets)
        graph.replay()
        return graph.loss.clone()  # the next step writes there

    def _capture(self, inputs: Tensor, targets: Tensor) -> Graph | None:
        """None where it cannot be: a network or a loss that asks the device for a value cannot be captured."""
        inputs, targets = inputs.clone(), targets.clone()
        before = copy.deepcopy(self.optimizer.state_dict())
        try:
            with as_it_was(self.network):
                loss, replay = capture(lambda: self._run(inputs, targets))
        except torch.OutOfMemoryError:
            raise  # more room helps
        except Exception as error:  # the user's code, which may do anything
            log.warning("steps are not captured as a CUDA graph: %s", _first_line(error))
            self._drop_other_graphs()
            return None
        finally:
            self._remember(before)
        return Graph(inputs, targets, loss, replay)

    def _drop_other_graphs(self) -> None:
        """Have them captured anew: they would draw dropout from the generator that a broken capture has replaced."""
        self._graphs.clear()
        for key in [key for key, step in _steps.items() if step is not self]:
            del _steps[key]

    def _remember(self, state: dict[str, Any]) -> None:
        """Let the optimizer remember this alone; where it says nothing, 0 is what an optimizer begins with."""
        for own in self.optimizer.state.values():
            for value in own.values():
                if isinstance(value, Tensor):
                    value.zero_()
        self.load_optimizer(state)


def capture(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Return what `run` returned, and a call that runs it again on the same tensors as one launch.

    Raises RuntimeError where `run` waits for the device (`.item()`, say), before the capture begins: a capture that
    breaks off leaves torch in a state that has to be put right.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP - 1):
                run()
            with _refuse_waiting():
                run()
    finally:
        torch.cuda.current_stream().wait_stream(stream)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    # thread_local: what a thread that pins memory for the next batches does meanwhile is no part of it
    capturing = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    with _put_right(pool), capturing:
        loss = run()
    return loss, graph.replay


@contextmanager
def _refuse_waiting() -> Iterator[None]:
    """Let every operation that waits for the device raise RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that this mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _put_right(pool: Any) -> Iterator[None]:
    """Restore what a capture that breaks off leaves behind: the stream, the random generator and the allocator.

    torch 2.11 to 2.15 then stay on the stream of the capture, and their generator refuses to draw (dropout raises
    "Offset increment outside graph capture"), since it still counts for the graph. The allocator of 2.11 takes the
    capture for one that goes on, and frees nothing when memory is short.
    """
    device = torch.cuda.current_device()
    stream, generator = torch.cuda.current_stream(), torch.cuda.default_generators[device]
    state = generator.get_state()
    try:
        yield
    except Exception:
        torch.cuda.set_stream(stream)
        fresh = torch.Generator(generator.device)
        fresh.set_state(state)
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        with suppress(RuntimeError):  # later versions have ended it themselves
            torch._C._cuda_endAllocateToPool(device, pool)
        raise


def _first_line(error: BaseException) -> str:
    """Return the first line of what went wrong first: the end of a broken capture raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def take_step(part: CompactedNetwork, recipe: Recipe, architecture: Hashable) -> Step:
    """The step for what `part` trains: on a GPU a captured one, kept for the next training of the same architecture.

    architecture: what of equal value computes the same from the same weights, or None. One training at a time.
    """
    if next(part.network.parameters()).device.type != DEVICE:
        return Step(part.network, part.masks, recipe)
    if architecture is None or part.share < 1:  # what is cut out differs from mask to mask
        return Captured(part.network, part.masks, recipe)
    step = _steps.pop((architecture, recipe), None)
    if step is None:
        try:
            network = copy.deepcopy(part.network)
        except Exception:  # the user's code, which may do anything
            return Captured(part.network, part.masks, recipe)
        step = Captured(network, part.masks, recipe)
    _steps[architecture, recipe] = step
    while len(_steps) > KEPT:
        _steps.popitem(last=False)
    part.move_to(step.network)
    step.begin(part.masks)
    return step
