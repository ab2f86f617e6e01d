"""One configuration: what `trial:` of a study file sets or samples."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Fields that only some methods have, by the column of METHODS that says so; the scores' own options are such too.
ONLY_FOR = {
    "iterations": "uses_iterations",
    "schedule": "iterative",
    "batches_per_step": "data",
    "saliency_batch_size": "data",
    "samples_per_class": "data",
    "saliency_loss": "data",
}
OPTIONS = ("temperature", "inner_steps", "inner_lr")
CONTROLS = ("layers_from", "invert", "shuffle", "reinit", "small_dense")
CONDITIONAL = {*ONLY_FOR, *OPTIONS}


class Trial(BaseModel):
    """One configuration; a field's name is the YAML key, the Optuna parameter, the MLflow param and the column."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dataset: str = Field(description="a row of DATASETS, or `package.module:function`")
    data_root: str | None = Field(None, description="folder of the data set's files, where it needs one")
    train_samples: int | None = Field(
        None, ge=2, description="images drawn from the training set, for training and validation (all)"
    )
    model: str = Field(description="a row of MODELS, `torchvision:name`, or `package.module:function`")
    width: int | None = Field(None, ge=1, description="channels of the first stage (the model's own)")
    method: str = Field(description="a row of METHODS, or `package.module:function`")
    density: float = Field(gt=0, le=1, description="fraction of prunable weights kept")
    iterations: int = Field(
        20, ge=1, description="pruning steps; of `snip_mb` and `grasp_mb`, how many steps' batches they take at once"
    )
    schedule: str = Field(
        "exponential",
        description="`exponential`, `linear`, `cubic` or `halving`: density after each pruning step; iterative methods",
    )
    batches_per_step: int = Field(1, ge=1, description="saliency batches a pruning step; methods that read data only")
    saliency_batch_size: int = Field(128, ge=1, description="images in one of them")
    samples_per_class: int | None = Field(
        None,
        ge=0,
        description="images of each class in one of them, in place of that number; 0: drawn from all (`grasp`: 10)",
    )
    saliency_loss: str = Field(
        "cross_entropy",
        description="`cross_entropy`, `nll_logits` or `package.module:function`, for the saliency alone",
    )
    temperature: float | None = Field(None, gt=0, description="divides the logits in GraSP's loss (200)")
    inner_steps: int | None = Field(None, ge=0, description="training steps that `prospr` looks ahead (3)")
    inner_lr: float | None = Field(None, gt=0, description="their learning rate (0.1)")
    layers_from: str | None = Field(
        None, description="masks.npz, or the id of the run that has it, whose layer densities are copied"
    )
    invert: bool = Field(False, description="control: keep the weights with the lowest scores")
    shuffle: bool = Field(False, description="control: permute the mask's bits inside each layer")
    reinit: bool = Field(False, description="control: draw the weights anew after pruning")
    small_dense: Literal["parameters", "macs"] | None = Field(
        None,
        description="control: no mask, but the width with as many `parameters`, or multiply-adds (`macs`), "
        "as the pruned network",
    )
    screen: bool = Field(True, description="do not train a network without a path from input to output")
    epochs: int = Field(20, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images in a training step")
    lr: float = Field(0.1, gt=0, description="learning rate at the first step")
    lr_schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="`cosine`, `step` or `constant`")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="`sgd` or `adamw`")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD; of AdamW, its first beta")
    weight_decay: float = Field(5e-4, ge=0, description="of the optimizer")
    clip_norm: float | None = Field(None, gt=0, description="bound on the gradient's 2-norm (none)")
    precision: Literal["bf16", "float32"] | None = Field(
        None, description="of training: `bf16` (torch's autocast) or `float32` (bf16 on a GPU, float32 on a CPU)"
    )
    seed: int = Field(0, ge=0, description="draws the split, the initial weights, the order and the saliency data")

    @model_validator(mode="before")
    @classmethod
    def _without_numpy(cls, values: Any) -> Any:
        """Numbers of numpy as Python's, and nothing where a value is missing: a row of a table makes a trial."""
        if not isinstance(values, Mapping):
            return values
        return {name: _to_python(value) for name, value in values.items() if not _is_missing(value)}

    def fields(self) -> dict[str, Any]:
        """The fields that apply: set, and of a kind that the method has. Equal trials have equal fields."""
        values = self.model_dump()
        return {name: value for name, value in values.items() if value is not None and applies(name, values)}

    @property
    def key(self) -> str:
        """A hash of the fields that apply and differ from their defaults: a new field re-keys nothing."""
        told = {
            name: value for name, value in self.fields().items() if value != type(self).model_fields[name].get_default()
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method's score that are set."""
        return {name: value for name, value in self.fields().items() if name in OPTIONS}

    @property
    def balanced(self) -> int:
        """Images of each class in a saliency batch; 0 where it is drawn from all images."""
        return _balanced(self.method, self.samples_per_class)


def _is_missing(value: Any) -> bool:
    """Whether a value is pandas' NA or NaN."""
    return type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _to_python(value: Any) -> Any:
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def method_label(fields: Mapping[str, Any]) -> str:
    """The method and the controls that are on, in a word each: `snip+shuffle`."""
    controls = [name for name in CONTROLS if fields.get(name)]
    return "+".join([fields["method"], *(f"small_dense:{fields[n]}" if n == "small_dense" else n for n in controls)])


def applies(field: str, values: Mapping[str, Any]) -> bool:
    """Whether a trial with these values has this field (`iterations` of a one-shot method would mean nothing)."""
    if field not in CONDITIONAL:
        return True
    from forcetune.pruning import method_row

    row = method_row(values["method"])
    if field in OPTIONS:
        return field in row.options
    if field == "saliency_batch_size" and _balanced(values["method"], values.get("samples_per_class")):
        return False
    return bool(getattr(row, ONLY_FOR[field]))


def _balanced(method: str, samples_per_class: int | None) -> int:
    from forcetune.pruning import method_row

    row = method_row(method)
    return row.data * (row.samples_per_class if samples_per_class is None else samples_per_class)
