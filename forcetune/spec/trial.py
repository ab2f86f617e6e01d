"""One configuration: what `trial:` of a study file sets or samples."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Fields that only some methods have, by the column of METHODS that says so.
ONLY_FOR = {
    "iterations": "iterative",
    "schedule": "iterative",
    "batches_per_step": "data",
    "saliency_batch_size": "data",
    "saliency_loss": "data",
}


class Trial(BaseModel):
    """One configuration; a field's name is the YAML key, the Optuna parameter, the MLflow param and the column."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: str = Field(description="a row of DATASETS, or `package.module:function`")
    data_root: str | None = Field(None, description="folder of the data set's files, where it needs one")
    train_samples: int | None = Field(
        None, ge=2, description="images drawn from the training set, for training and validation (all)"
    )
    model: str = Field(description="a row of MODELS, or `package.module:function`")
    width: int | None = Field(None, ge=1, description="channels of the first stage (the model's own)")
    method: str = Field(description="a row of METHODS, or `package.module:function`")
    density: float = Field(gt=0, le=1, description="fraction of prunable weights kept")
    iterations: int = Field(20, ge=1, description="pruning steps; iterative methods only")
    schedule: str = Field("exponential", description="density after each pruning step; iterative methods only")
    batches_per_step: int = Field(1, ge=1, description="saliency batches a pruning step; methods that read data only")
    saliency_batch_size: int = Field(128, ge=1, description="images in one of them")
    saliency_loss: str = Field("cross_entropy", description="`cross_entropy` or `nll_logits`, for the saliency alone")
    screen: bool = Field(True, description="do not train a network without a path from input to output")
    epochs: int = Field(20, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images in a training step")
    lr: float = Field(0.1, gt=0, allow_inf_nan=False, description="learning rate at the first step")
    lr_schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="`cosine`, `step` or `constant`")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False, description="of SGD")
    clip_norm: float | None = Field(None, gt=0, description="bound on the gradient's 2-norm (none)")
    seed: int = Field(0, ge=0, description="draws the split, the initial weights, the order and the saliency data")

    def fields(self) -> dict[str, Any]:
        """The fields that apply: set, and of a kind that the method has. Equal trials have equal fields."""
        return {
            name: value for name, value in self.model_dump().items() if value is not None and applies(name, self.method)
        }

    @property
    def key(self) -> str:
        """A hash of the fields that apply and differ from their defaults: a new field re-keys nothing."""
        told = {
            name: value for name, value in self.fields().items() if value != type(self).model_fields[name].get_default()
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def applies(field: str, method: str) -> bool:
    """Whether trials of this method have this field (`iterations` of a one-shot method would mean nothing)."""
    if field not in ONLY_FOR:
        return True
    from forcetune.pruning import method_row

    return bool(getattr(method_row(method), ONLY_FOR[field]))
