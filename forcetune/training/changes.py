"""The masks of a training that a rule changes: what the rule is shown, what it may do, and the trail that it leaves."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.pruning import Change, Masks, NetworkChannels, RuleState, Saliency, TrainingRule, Weights
from forcetune.pruning.masks import density
from forcetune.training.loop import Diverged

# Of the network, its masks, the step and a saliency: the scores, by parameter name.
Scorer = Callable[[nn.Module, Masks, int, Saliency], Weights]


class ChangingMasks:
    """The masks of one training that a rule changes.

    Args:
        rule: The rule.
        score: A function of the network, its masks, the step and a saliency that returns the scores by parameter name;
            the batches that it scores on depend on the step alone.
        seed: The seed of the rule's random numbers.

    Attributes:
        rule: The rule.
        masks: The masks so far, by parameter name, in the shapes of the whole network.
        trail: One dict for each change: the `step`, the number of weights `kept` in each layer, and the numbers of
            weights that `returned` and that were `removed`.
        input_shape: The shape of one sample, which the training sets.
    """

    def __init__(self, rule: TrainingRule, score: Scorer | None = None, seed: int = 0) -> None:
        self.rule = rule
        self.masks: Masks = {}
        self.trail: list[dict[str, Any]] = []
        self._score = score
        self._seed = seed
        self.input_shape: tuple[int, ...] = ()
        self._channels: NetworkChannels | None = None
        self._asked_step = -1
        self._events = frozenset(rule.event_steps)

    def is_event(self, step: int) -> bool:
        """Return whether the rule is asked after this step."""
        return step in self._events

    @property
    def is_settled(self) -> bool:
        """Whether the masks stay as they are from now on."""
        return self._asked_step >= self.rule.settled_step

    def change(
        self,
        step: int,
        model: nn.Module,
        weights: Weights,
        gradients: Weights,
        optimizer_state: Callable[[str], Mapping[str, Tensor]],
    ) -> Change | None:
        """Ask the rule for a change, check it and keep its masks.

        Args:
            step: The number of steps so far.
            model: The whole network.
            weights: The weights that the masks are put on, by parameter name.
            gradients: The gradients of the step's batch, by parameter name; empty where the rule needs none.
            optimizer_state: A function of a parameter name that returns the optimizer's tensors of that weight.

        Returns:
            The change; None where the masks stay as they are and nothing is rewound.

        Raises:
            ValueError: The rule has returned masks that it must not.
            Diverged: A gradient is not finite, or a score on data is not a number.
        """
        if not all(torch.isfinite(gradient).all() for gradient in gradients.values()):
            raise Diverged(f"the gradients were not finite after step {step}")
        shown_masks = {name: mask.clone() for name, mask in self.masks.items()}  # a rule may write into them
        if self.rule.prunes_channels and self._channels is None:
            self._channels = NetworkChannels(model, weights, self.input_shape)
        state = RuleState(
            weights,
            shown_masks,
            gradients,
            optimizer_state,
            score=lambda saliency: self._score_saliency(model, step, saliency),
            draw=lambda name: self._draw(step, name, weights[name]),
            channels=self._channels,
        )
        change = self.rule.after_step(step, state)
        self._asked_step = step
        if change is None:
            self._check_count(self.masks, step)
            return None
        self._check(change.masks, step)
        masks = {name: change.masks[name] for name in self.masks}
        returned = sum(int((mask & ~self.masks[name]).sum()) for name, mask in masks.items())
        removed = sum(int((self.masks[name] & ~mask).sum()) for name, mask in masks.items())
        if returned and not self.rule.may_regrow:
            raise ValueError(f"{self._name} returned {returned} pruned weights after step {step}, which it must not do")
        kept = [int(mask.sum()) for mask in masks.values()]
        self.trail.append({"step": step, "kept": kept, "returned": returned, "removed": removed})
        self.masks = masks
        return change if returned or removed or change.rewind else None

    @property
    def density(self) -> float:
        """The fraction of the weights that the masks keep now."""
        return density(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks and the trail."""
        return {"masks": dict(self.masks), "trail": list(self.trail), "asked_step": self._asked_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the masks and the trail."""
        devices = {name: mask.device for name, mask in self.masks.items()}
        self.masks = {name: mask.to(devices[name]) for name, mask in state["masks"].items()}
        self.trail = list(state["trail"])
        self._asked_step = state["asked_step"]

    @property
    def _name(self) -> str:
        return type(self.rule).__name__

    def _check(self, masks: Masks, step: int) -> None:
        for name, mask in self.masks.items():
            if name not in masks or masks[name].shape != mask.shape or masks[name].dtype != torch.bool:
                raise ValueError(
                    f"{self._name} must return a bool mask of shape {tuple(mask.shape)} for {name} after step {step}"
                )
        self._check_count(masks, step)

    def _check_count(self, masks: Masks, step: int) -> None:
        total = sum(mask.numel() for mask in masks.values())
        kept, requested = sum(int(mask.sum()) for mask in masks.values()), int(total * self.rule.plan.density)
        is_kept = kept <= requested if self.rule.prunes_channels else kept == requested
        if step == self.rule.settled_step and not is_kept:
            raise ValueError(
                f"{self._name} keeps {kept} of {total} weights after its last change, at step {step}; the trial's "
                f"density {self.rule.plan.density} is {requested}"
            )

    def _score_saliency(self, model: nn.Module, step: int, saliency: Saliency) -> Weights:
        if self._score is None:
            raise ValueError(f"{self._name} scores weights on data, but this training has no batches to score on")
        scores = self._score(model, self.masks, step, saliency)
        if any(torch.isnan(score).any() for score in scores.values()):
            raise Diverged(f"the scores of the weights were not a number after step {step}")
        return scores

    def _draw(self, step: int, name: str, weight: Tensor) -> Tensor:
        """Return uniform random numbers in the shape of a weight, the same on every device."""
        digest = hashlib.sha256(f"{self._seed} {step} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
