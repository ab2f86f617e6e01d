"""One configuration: the fields that `trial:` of a study file sets or samples."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forcetune.study.effect import Effect

# The column of METHODS that says whether a method has a field. METHOD_OPTIONS are such fields too.
METHOD_COLUMNS = {
    "iterations": "uses_iterations",
    "schedule": "iterative",
    "batches_per_step": "data",
    "saliency_batch_size": "data",
    "samples_per_class": "data",
    "saliency_loss": "uses_loss",
    "granularity": "has_granularity",
}
SCORE_OPTIONS = ("temperature", "inner_steps", "inner_lr")
RULE_OPTIONS = ("settle_at", "update_interval", "drop_fraction", "rewind_step", "rewind")
METHOD_OPTIONS = (*SCORE_OPTIONS, *RULE_OPTIONS)
CONTROLS = ("layers_from", "invert", "shuffle", "reinit", "small_dense")
CONDITIONAL_FIELDS = {*METHOD_COLUMNS, *METHOD_OPTIONS}


class Trial(BaseModel):
    """One configuration; a field's name is the YAML key, the Optuna parameter, the MLflow param and the column.

    The mark of a field says what it affects; all that needs to know it asks `select_fields`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dataset: Annotated[str, Effect.SCORES | Effect.MEMORY] = Field(
        description="a row of DATASETS, or `package.module:function`"
    )
    data_root: Annotated[str | None, Effect.SCORES | Effect.MEMORY] = Field(
        None, description="folder with the files of the data set, if it has files"
    )
    train_samples: Annotated[int | None, Effect.SCORES] = Field(
        None, ge=2, description="images drawn from the training set, for training and validation (all)"
    )
    model: Annotated[str, Effect.SCORES | Effect.MEMORY] = Field(
        description="a row of MODELS, `torchvision:name`, or `package.module:function`"
    )
    width: Annotated[int | None, Effect.SCORES | Effect.MEMORY] = Field(
        None, ge=1, description="channels of the first stage (the model's default)"
    )
    method: Annotated[str, Effect.SCORES | Effect.PRUNING_MEMORY] = Field(
        description="a row of METHODS, or `package.module:function`"
    )
    density: Annotated[float, Effect.MASK] = Field(gt=0, le=1, description="fraction of prunable weights kept")
    granularity: Annotated[Literal["weight", "channel"], Effect.SCORES] = Field(
        "weight",
        description="what is pruned: each `weight` for itself, or a whole `channel`, whose score is the sum over its "
        "weights and whose density is then at most `density`",
    )
    iterations: Annotated[int, Effect.SCORES] = Field(
        20,
        ge=1,
        description="pruning steps; `snip_mb` and `grasp_mb` use the batches of so many steps at once "
        "(20; `snip_it_training`, `snap_it`: 7, `lottery`: 5)",
    )
    schedule: Annotated[str, Effect.MASK] = Field(
        "exponential",
        description="density after each step of an iterative method: `exponential`, `linear`, `cubic` or `halving` "
        "(exponential; gradual magnitude: cubic; `snip_it_training`, `snap_it`: halving)",
    )
    batches_per_step: Annotated[int, Effect.SCORES] = Field(
        1,
        ge=1,
        description="saliency batches per pruning step, for methods that read data (1; `snip_it_training`, `snap`, "
        "`snap_it`, `skeletonization`: 5)",
    )
    saliency_batch_size: Annotated[int, Effect.SCORES | Effect.PRUNING_MEMORY] = Field(
        128, ge=1, description="images per saliency batch"
    )
    samples_per_class: Annotated[int | None, Effect.SCORES | Effect.PRUNING_MEMORY] = Field(
        None,
        ge=0,
        description="images of each class per saliency batch, instead of `saliency_batch_size`; 0: images of any class "
        "(0; `grasp`: 10)",
    )
    saliency_loss: Annotated[str, Effect.SCORES] = Field(
        "cross_entropy",
        description="loss that only the saliency uses: `cross_entropy`, `nll_logits`, "
        "`linear_error` or `package.module:function` (cross_entropy; `skeletonization`: linear_error)",
    )
    temperature: Annotated[float | None, Effect.SCORES] = Field(
        None, gt=0, description="divisor of the logits in GraSP's loss (200)"
    )
    inner_steps: Annotated[int | None, Effect.SCORES | Effect.PRUNING_MEMORY] = Field(
        None, ge=0, description="training steps that `prospr` looks ahead (3)"
    )
    inner_lr: Annotated[float | None, Effect.SCORES] = Field(
        None, gt=0, description="learning rate of `inner_steps` (0.1)"
    )
    settle_at: Annotated[float | None, Effect.TRAINING] = Field(
        None,
        gt=0,
        le=1,
        description="share of the training after which a method that prunes while training changes no mask (0.75; "
        "`snip_it_training`: 0.4)",
    )
    update_interval: Annotated[int | None, Effect.TRAINING] = Field(
        None, ge=1, description="training steps between two changes of the masks (`dpf`: 16; `rigl`, `set`: 100)"
    )
    drop_fraction: Annotated[float | None, Effect.TRAINING] = Field(
        None, gt=0, le=1, description="share of each layer's weights that `rigl` and `set` exchange at first (0.3)"
    )
    rewind_step: Annotated[int | None, Effect.TRAINING] = Field(
        None, ge=0, description="training step that each level of `lottery` goes back to (0: the initial weights)"
    )
    rewind: Annotated[Literal["weights", "learning_rate"] | None, Effect.TRAINING] = Field(
        None,
        description="what a level of `lottery` takes from that step: `weights` with everything else, or the "
        "`learning_rate` alone (`weights`)",
    )
    layers_from: Annotated[str | None, Effect.SCORES] = Field(
        None,
        description="masks whose layer densities are copied: a file (masks.npz, or a .safetensors file), or the id of "
        "a run that has one",
    )
    invert: Annotated[bool, Effect.SCORES] = Field(
        False, description="control: keep the weights with the lowest scores"
    )
    shuffle: Annotated[bool, Effect.MASK] = Field(
        False, description="control: permute the mask's bits inside each layer"
    )
    reinit: Annotated[bool, Effect.MASK] = Field(False, description="control: draw new weights after pruning")
    small_dense: Annotated[Literal["parameters", "macs"] | None, Effect.MASK] = Field(
        None,
        description="control: instead of a mask, a width with as many `parameters`, or multiply-adds (`macs`), as the "
        "pruned network",
    )
    screen: Annotated[bool, Effect.TRAINING] = Field(
        True, description="do not train a network without a path from input to output"
    )
    epochs: Annotated[int, Effect.LOOP] = Field(
        20, ge=1, description="passes over the training images; of `lottery`, those of each level"
    )
    equal_compute: Annotated[bool, Effect.LOOP] = Field(
        False,
        description="train for as many passes as the operations of `epochs` passes of the dense network allow, at most "
        "four times as many",
    )
    batch_size: Annotated[int, Effect.TRAINING | Effect.TRAINING_MEMORY] = Field(
        128, ge=2, description="images per training step"
    )
    lr: Annotated[float, Effect.LOOP] = Field(0.1, gt=0, description="learning rate at the first step")
    lr_schedule: Annotated[Literal["cosine", "step", "constant"], Effect.LOOP] = Field(
        "cosine", description="schedule of the learning rate: `cosine`, `step` or `constant`"
    )
    optimizer: Annotated[Literal["sgd", "adamw"], Effect.LOOP | Effect.TRAINING_MEMORY] = Field(
        "sgd", description="optimizer: `sgd` or `adamw`"
    )
    momentum: Annotated[float, Effect.LOOP | Effect.TRAINING_MEMORY] = Field(
        0.9, ge=0, lt=1, description="momentum of SGD, or the first beta of AdamW"
    )
    weight_decay: Annotated[float, Effect.LOOP | Effect.TRAINING_MEMORY] = Field(
        5e-4, ge=0, description="weight decay of the optimizer"
    )
    clip_norm: Annotated[float | None, Effect.LOOP | Effect.TRAINING_MEMORY] = Field(
        None, gt=0, description="bound on the gradient's 2-norm (none)"
    )
    precision: Annotated[Literal["bf16", "float32"] | None, Effect.LOOP | Effect.TRAINING_MEMORY] = Field(
        None, description="training precision: `bf16` (torch's autocast) or `float32` (bf16 on a GPU, float32 on a CPU)"
    )
    sync_batch_norm: Annotated[bool, Effect.TRAINING] = Field(
        True,
        description="where `resources.processes` share a batch, batch norm takes the statistics of the whole batch; "
        "false: each process those of its share, so that the results depend on their number",
    )
    seed: Annotated[int, Effect.SCORES] = Field(
        0, ge=0, description="seed of the split, the initial weights, the data order and the saliency data"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Turn numpy's numbers into Python's and drop missing values, so that a row of a table can make a trial.

        Fields that are missing get the defaults of the method, where it has defaults of its own.
        """
        if not isinstance(values, Mapping):
            return values
        present = {name: _to_python(value) for name, value in values.items() if not _is_missing(value)}
        return {**_find_defaults(present.get("method")), **present}

    def fields(self) -> dict[str, Any]:
        """Return the fields that apply: they have a value, and the method has them. Equal trials have equal fields."""
        values = self.model_dump()
        return {name: value for name, value in values.items() if value is not None and is_applicable(name, values)}

    @property
    def key(self) -> str:
        """A hash of the fields that apply and differ from their defaults: a new field re-keys nothing."""
        changed_fields = {
            name: value for name, value in self.fields().items() if value != type(self).model_fields[name].get_default()
        }
        return hashlib.sha256(json.dumps(changed_fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method's score that are set."""
        return {name: value for name, value in self.fields().items() if name in SCORE_OPTIONS}

    @property
    def rule_options(self) -> dict[str, Any]:
        """The options of the method's training rule that are set."""
        return {name: value for name, value in self.fields().items() if name in RULE_OPTIONS}

    @property
    def loop_arguments(self) -> dict[str, Any]:
        """The arguments that the trial has for `training.Training`; they have the names of the fields."""
        return {name: getattr(self, name) for name in select_fields(Effect.LOOP)}

    @property
    def prunes_channels(self) -> bool:
        """Whether whole channels are pruned."""
        from forcetune.pruning import method_row

        return self.fields().get("granularity") == "channel" or method_row(self.method).always_prunes_channels

    @property
    def total_epochs(self) -> int:
        """The epochs of all levels, where the method trains several; an upper bound where `rewind_step` is set."""
        from forcetune.pruning import method_row

        return self.epochs * (self.iterations + 1 if method_row(self.method).has_levels else 1)

    def count_passes(self, training_samples: int) -> float:
        """Return the passes over the training images, of all levels; each level but the first begins at `rewind_step`.

        Args:
            training_samples: The number of training images.
        """
        later_levels = self.total_epochs // self.epochs - 1
        skipped = (self.rewind_step or 0) * self.batch_size / training_samples
        return self.epochs + later_levels * max(self.epochs - skipped, 0.0)

    @property
    def saliency_samples_per_class(self) -> int:
        """The number of images of each class in a saliency batch; 0 where the batch is drawn from all images."""
        return _find_samples_per_class(self.method, self.samples_per_class)


def select_fields(effect: Effect) -> list[str]:
    """Return the names of the fields that are marked with an effect, in the order of `Trial`."""
    return [
        name
        for name, info in Trial.model_fields.items()
        if any(isinstance(mark, Effect) and effect in mark for mark in info.metadata)
    ]


def _is_missing(value: Any) -> bool:
    """Return whether a value is pandas' NA or NaN."""
    return type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _to_python(value: Any) -> Any:
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def method_label(fields: Mapping[str, Any]) -> str:
    """Return the name of a trial's method and those of its controls, as `snip+shuffle` or `snip by channel`.

    Args:
        fields: The fields of the trial.
    """
    controls = [name for name in CONTROLS if fields.get(name)]
    method = f"{fields['method']} by channel" if fields.get("granularity") == "channel" else fields["method"]
    return "+".join(
        [
            method,
            *(f"small_dense:{fields[control]}" if control == "small_dense" else control for control in controls),
        ]
    )


def is_applicable(field: str, values: Mapping[str, Any]) -> bool:
    """Return whether a trial with these values has a field; with a one-shot method it has no `iterations`."""
    if field not in CONDITIONAL_FIELDS:
        return True
    from forcetune.pruning import method_row

    row = method_row(values["method"])
    if field in METHOD_OPTIONS:
        return field in row.options or field in row.rule_options
    if field == "saliency_batch_size" and _find_samples_per_class(values["method"], values.get("samples_per_class")):
        return False
    return bool(getattr(row, METHOD_COLUMNS[field]))


def _find_defaults(method: object) -> Mapping[str, Any]:
    """Return the fields for which a row of METHODS has defaults of its own."""
    from forcetune.pruning import METHODS

    return METHODS[method].defaults if isinstance(method, str) and method in METHODS else {}


def _find_samples_per_class(method: str, samples_per_class: int | None) -> int:
    from forcetune.pruning import method_row

    row = method_row(method)
    return row.data * (row.samples_per_class if samples_per_class is None else samples_per_class)
