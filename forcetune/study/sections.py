"""The sections of a study file beside `trial:`: `search:`, `resources:` and `code:`."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from forcetune.names import suggestion

DEFAULT_TRIALS = 32


class Section(BaseModel):
    """The base of the parts of a study file: unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Seeds(Section):
    """The limit on the re-runs of a point."""

    front: int = Field(ge=1, description="maximum number of fresh seeds for a trial on the front or within its noise")


class Budget(Section):
    """The limit on the cost of a search."""

    hours: float | None = Field(None, gt=0, description="hours of searching, including restarts")
    device_hours: float | None = Field(None, gt=0, description="hours of GPUs, or of cores where a trial has no GPU")


class Focus(Section):
    """The band of the front that counts for the sampler."""

    sparsity: list[float] = Field(min_length=2, max_length=2, description="lowest and highest sparsity of the band")


class Patience(Section):
    """The condition under which the front counts as complete."""

    trials: int = Field(ge=1, description="number of trials within which the front must grow")
    gain: float = Field(gt=0, description="share of its hypervolume by which the front must grow")


def _number_or_share(written: Any) -> Any:
    is_number = isinstance(written, int) and not isinstance(written, bool) and written >= 0
    if written is not None and not is_number and not (isinstance(written, float) and 0 < written < 1):
        raise ValueError("should be a number of trials (0 or more), or a share of them (between 0 and 1)")
    return written


SAMPLERS = ("tpe", "front", "nsga2", "random", "grid")
OPTUNA_PREFIX = "optuna:"  # before the name of a sampler of Optuna's
SAMPLER_SCHEMA = {"anyOf": [{"enum": list(SAMPLERS)}, {"type": "string", "pattern": "^[^:]+:[^:]+$"}]}
NUMBER_OR_SHARE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "null"},
    ]
}


Keep = Literal["best", "front", "all", "none"]  # the trials that keep their trained weights


def _check_sampler(written: str) -> str:
    name = written.removeprefix(OPTUNA_PREFIX)
    if written not in SAMPLERS and not (":" in written and all(written.partition(":")[::2]) and name):
        raise ValueError(
            f"is no sampler{suggestion(written, SAMPLERS)}; allowed: {', '.join(SAMPLERS)}, "
            f"{OPTUNA_PREFIX}NAME or package.module:function"
        )
    return written


class Search(Section):
    """The section `search:`: how configurations are proposed."""

    trials: int | None = Field(
        None,
        ge=1,
        description=f"number of trials, including collapsed and failed ones ({DEFAULT_TRIALS}; grid: all)",
    )
    sampler: Annotated[str, AfterValidator(_check_sampler), WithJsonSchema(SAMPLER_SCHEMA)] = Field(
        "tpe",
        description="`tpe`, `front`, `nsga2`, `random`, `grid`, `optuna:NAME` for a sampler of Optuna's, or "
        "`package.module:function` that returns one",
    )
    sampler_options: dict[str, Any] = Field(
        default={}, description="arguments of a sampler of Optuna's or of your own, by name"
    )
    focus: Focus | None = Field(
        None, description="`{sparsity: [low, high]}`: the sampler `front` works on this band of the front"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the sampler")
    stopping: Literal["pareto", "safe", "none"] | None = Field(
        None, description="rule that ends trials early: `pareto`, `safe` or `none` (`pareto`; grid: `none`)"
    )
    seeds: Seeds | None = Field(
        None,
        description=(
            "`{front: N}`: after the last proposal, the front runs again with up to N fresh seeds, at least three of "
            "them before a point counts as clear"
        ),
    )
    budget: Budget | None = Field(
        None,
        description="`{hours: , device_hours: }`: no trial starts once one of the two is used up; fresh seeds count, "
        "comparisons and nights do not",
    )
    patience: Patience | None = Field(
        None,
        description="`{trials: , gain: }`: the search ends when over `trials` trials the hypervolume grew by "
        "less than the share `gain`",
    )
    max_failures: Annotated[
        int | float | None, BeforeValidator(_number_or_share), WithJsonSchema(NUMBER_OR_SHARE_SCHEMA)
    ] = Field(
        None,
        description="failed trials that the search allows: a number, or a share once ten trials have ended; one more "
        "ends the search (the search ends when five in a row fail for the same reason)",
    )
    keep: Keep = Field(
        "front",
        description="trials whose trained weights their runs keep: `best` (the most accurate), `front` (those that may "
        "stand on it), `all` or `none`",
    )
    start: list[dict[str, Any]] = Field(
        default=[], description="known configurations to run first; fields that they do not set are sampled"
    )
    warm_start: list[str] = Field(
        default=[],
        description="studies that the sampler learns from, in the same Optuna storage, with the same objectives",
    )


AUTO: Literal["auto"] = "auto"
Priority = Literal["normal", "low"]  # of a study among the studies on its cluster


def _number_or_auto(written: Any) -> Any:
    number = isinstance(written, int | float) and not isinstance(written, bool)
    if written != AUTO and not (number and 0 <= written < float("inf")):
        raise ValueError("should be a number, at least 0, or auto")  # pydantic itself reports one error for each type
    return written


NUMBER_OR_AUTO_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0}, {"const": AUTO}]}
GPU_TYPE_PATTERN = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"  # of the value of a label of Ray


def _text_or_list(written: Any) -> Any:
    types = [written] if isinstance(written, str) else written
    is_list = isinstance(types, list) and all(isinstance(name, str) for name in types)
    if not is_list or not all(re.fullmatch(GPU_TYPE_PATTERN, name) for name in types):
        raise ValueError("should be one of Ray's accelerator types, such as H100, or a list of them")
    return types


GPU_TYPE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": f"^{GPU_TYPE_PATTERN}$"},
        {"type": "array", "items": {"type": "string", "pattern": f"^{GPU_TYPE_PATTERN}$"}},
    ]
}


class Resources(Section):
    """The section `resources:`: what one trial occupies, and how many trials run at once."""

    cpus: float = Field(
        1, gt=0, description="cores per trial, and the number of its threads; its processes have equal parts"
    )
    gpus: Annotated[
        float | Literal["auto"], BeforeValidator(_number_or_auto), WithJsonSchema(NUMBER_OR_AUTO_SCHEMA)
    ] = Field(
        0.0,
        description="GPUs per trial; trials with a fraction share a GPU; `auto`: a probe finds how many trials fit in "
        "the memory of a GPU; without a GPU, it means 0",
    )
    gpu_type: Annotated[list[str], BeforeValidator(_text_or_list), WithJsonSchema(GPU_TYPE_SCHEMA)] = Field(
        default=[],
        description="kinds of GPUs on which trials may run, by Ray's names for them: `H100`, or `[H100, A100]` (any)",
    )
    processes: int = Field(
        1,
        ge=1,
        description="processes that train a trial together, each with its share of every batch and, where the trial "
        "has GPUs, with one of its `gpus`",
    )
    spread: bool = Field(False, description="let the processes of a trial be on several nodes; else one has them all")
    concurrent: int | None = Field(None, ge=1, description="trials that run at the same time (as many as fit)")
    compile: bool = Field(False, description="train with torch.compile, which needs time before the first step")
    max_seconds: float | None = Field(
        None, gt=0, description="time limit of one attempt at a trial, after which the trial fails (none)"
    )
    retries: int = Field(
        3,
        ge=0,
        description="further attempts at a trial whose worker was lost or ran out of memory; a lost node "
        "does not count",
    )

    @property
    def threads(self) -> int:
        """The number of torch's threads in each process of a trial; the last digits of its losses depend on it."""
        return max(1, int(self.cpus / self.processes))


class ResolvedResources(Resources):
    """The resources with the GPUs of a trial as a number, also where the study has `auto`."""

    gpus: float = 0

    @property
    def devices(self) -> float:
        """The devices of a trial, whose time counts: its GPUs, or its cores where it has no GPU."""
        return self.gpus or self.cpus

    @property
    def per_process(self) -> "ResolvedResources":
        """The resources of one process of a trial."""
        cpus, gpus = self.cpus / self.processes, self.gpus / self.processes
        return self.model_copy(update={"cpus": cpus, "gpus": gpus, "processes": 1, "spread": False})

    def count_fitting(self, cpus: float, gpus: float) -> int:
        """Return the number of trials that fit on these cores and GPUs at once."""
        by_cpus = count_whole(cpus, self.cpus)
        return min(by_cpus, count_whole(gpus, self.gpus)) if self.gpus else by_cpus


def count_whole(available: float, share: float) -> int:
    """Return how many whole shares fit into what is available; rounding does not count: three thirds fit into 1."""
    return int(available / share + 1e-9)


class Code(Section):
    """The section `code:`: what is sent to a cluster with the study file."""

    paths: list[str] = Field(default=[], description="files and folders with your own code, in the current folder")
    pip: list[str] = Field(default=[], description="pip requirements that the cluster's machines do not have")
