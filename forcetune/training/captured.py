"""Training steps as CUDA graphs: one launch in place of hundreds, for a network too small to keep a GPU busy.

A graph uses the addresses of the tensors that it was captured with. It is therefore captured once for an architecture
and a batch size, in a process that runs many trainings. Each training overwrites the weights, the masks, the state of
the optimizer and the learning rate.
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

from forcetune.models.preserving import preserve_model
from forcetune.training.part import CompactedNetwork
from forcetune.training.step import Recipe, Step

log = logging.getLogger(__name__)

CAPTURE_DEVICE = "cuda"
WARM_UP_STEPS = 3  # until then libraries choose their kernels, and the optimizer creates its state
# Architectures, and batch sizes of each, whose graphs are kept: each graph keeps the memory of a step's activations.
KEPT_GRAPHS = 2

_steps: OrderedDict[Hashable, "CapturedStep"] = OrderedDict()


@dataclass(frozen=True)
class Graph:
    """A captured step.

    Attributes:
        inputs: The batch that the graph reads.
        targets: The targets that the graph reads.
        loss: The loss that the graph writes.
        replay: A function that runs the graph.
    """

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    replay: Callable[[], None]


class CapturedStep(Step):
    """A training step that replays a graph; a batch of another shape than the first one's is taken without a graph."""

    def __init__(self, network: nn.Module, masks: dict[str, Tensor], recipe: Recipe) -> None:
        device = next(network.parameters()).device
        super().__init__(network, masks, recipe, lr=torch.tensor(0.0, device=device))
        self._graphs: dict[torch.Size, Graph | None] = {}

    def begin(self, masks: dict[str, Tensor]) -> None:
        """Start another training, whose weights are in the network already."""
        self.masked.begin(masks)
        self._replace_optimizer_state({"state": {}})
        self.compile_seconds = 0.0
        self._shape = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Do a step, by its graph where the batch has the usual shape; return the loss, as `Step` does."""
        self._set_up(inputs, targets)
        if inputs.shape != self._shape:
            return super().__call__(inputs, targets, lr)
        if inputs.shape not in self._graphs:
            while len(self._graphs) >= KEPT_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[inputs.shape] = self._capture(inputs, targets)
        graph = self._graphs[inputs.shape]
        if graph is None:
            return super().__call__(inputs, targets, lr)
        self._set_lr(lr)
        graph.inputs.copy_(inputs)
        graph.targets.copy_(targets)
        graph.replay()
        return graph.loss.clone()  # a copy, since the next step overwrites the graph's loss

    def _capture(self, inputs: Tensor, targets: Tensor) -> Graph | None:
        """Capture a step. Return None where that fails, for example since the loss asks the device for a value."""
        self._set_lr(0.0)  # the steps before a capture move no weight, also none of those underneath
        inputs, targets = inputs.clone(), targets.clone()
        optimizer_state = copy.deepcopy(self.optimizer.state_dict())
        try:
            with preserve_model(self.network, weights=True):
                loss, replay = capture(lambda: self._run(inputs, targets))
        except torch.OutOfMemoryError:
            raise  # another attempt with more memory can succeed
        except Exception as error:  # the user's code, which may do anything
            log.warning("steps are not captured as a CUDA graph: %s", _first_line(error))
            self._drop_graphs()
            return None
        finally:
            self._replace_optimizer_state(optimizer_state)
        return Graph(inputs, targets, loss, replay)

    def _drop_graphs(self) -> None:
        """Drop all graphs, of other steps too: they draw dropout from the generator that a broken capture replaced."""
        self._graphs.clear()
        for key in [key for key, step in _steps.items() if step is not self]:
            del _steps[key]

    def _replace_optimizer_state(self, state: dict[str, Any]) -> None:
        """Give the optimizer this state alone; a tensor that it lacks becomes 0, with which an optimizer begins."""
        for weight_state in self.optimizer.state.values():
            for value in weight_state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        self.load_optimizer(state)


def capture(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Run a function a few times, capture it as a CUDA graph, and return its loss with a function that replays it.

    Args:
        run: The function, which uses the same tensors in every call and returns a loss.

    Returns:
        The loss that `run` returned, and a function that runs it again on the same tensors as one launch.

    Raises:
        RuntimeError: `run` waits for the device (`.item()`, say). The error comes before the capture begins, since a
            capture that breaks off leaves torch in a state that has to be repaired.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS - 1):
                run()
            with _forbid_waiting():
                run()
    finally:
        torch.cuda.current_stream().wait_stream(stream)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    # thread_local: a thread that pins memory for the next batches must not break the capture
    graph_context = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    with _repair_after_failure(pool), graph_context:
        loss = run()
    return loss, graph.replay


@contextmanager
def _forbid_waiting() -> Iterator[None]:
    """Make every operation that waits for the device raise RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that this mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _repair_after_failure(pool: Any) -> Iterator[None]:
    """Restore the stream, the random generator and the allocator after a capture that breaks off.

    Without this, torch 2.11 to 2.15 stay on the stream of the capture, and their generator refuses to draw (dropout
    raises "Offset increment outside graph capture"), since it still counts for the graph. The allocator of 2.11 acts as
    if the capture went on, and frees nothing when memory is short.
    """
    device = torch.cuda.current_device()
    stream, generator = torch.cuda.current_stream(), torch.cuda.default_generators[device]
    state = generator.get_state()
    try:
        yield
    except Exception:
        torch.cuda.set_stream(stream)
        new_generator = torch.Generator(generator.device)
        new_generator.set_state(state)
        generator.graphsafe_set_state(new_generator.graphsafe_get_state())
        with suppress(RuntimeError):  # later versions have ended the allocation themselves
            torch._C._cuda_endAllocateToPool(device, pool)
        raise


def _first_line(error: BaseException) -> str:
    """Return the first line of the earliest error: the end of a broken capture raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def make_step(compacted: CompactedNetwork, recipe: Recipe, architecture: Hashable) -> Step:
    """Return the step that trains a network: on a GPU a captured one, kept for the next of the same architecture.

    A kept step serves one training at a time.

    Args:
        compacted: The network that is trained, with its masks.
        recipe: The settings of the training.
        architecture: A value that is equal for networks that compute the same from the same weights. With None the
            step is not kept.
    """
    if next(compacted.network.parameters()).device.type != CAPTURE_DEVICE:
        return Step(compacted.network, compacted.masks, recipe)
    if architecture is None or compacted.macs_fraction < 1:  # what is cut out differs from mask to mask
        return CapturedStep(compacted.network, compacted.masks, recipe)
    step = _steps.pop((architecture, recipe), None)
    if step is None:
        try:
            network = copy.deepcopy(compacted.network)
        except Exception:  # the user's code, which may do anything
            return CapturedStep(compacted.network, compacted.masks, recipe)
        step = CapturedStep(network, compacted.masks, recipe)
    _steps[architecture, recipe] = step
    while len(_steps) > KEPT_GRAPHS:
        _steps.popitem(last=False)
    compacted.move_to(step.network)
    step.begin(compacted.masks)
    return step
