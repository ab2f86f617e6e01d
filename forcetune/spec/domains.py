"""What a field under `trial:` may be: one value, a choice, or a range; each perhaps only `when` another has a value."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from forcetune.spec.problems import LARGEST, Problem, show_value
from forcetune.spec.trial import Trial

EXACT = 2**53  # whole numbers up to here are exact as Optuna stores them

When = dict[str, list[Any]]


@dataclass(frozen=True)
class Fixed:
    """One value for every trial."""

    value: Any
    when: When = field(default_factory=dict)

    @property
    def values(self) -> list[Any]:
        return [self.value]

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Choice:
    """One of a list of values."""

    values: list[Any]
    when: When = field(default_factory=dict)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}{_told(self.when)}"


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; `log` samples its logarithm evenly."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None
    when: When = field(default_factory=dict)

    @property
    def values(self) -> list[Any]:
        """Its ends, to check what they would run."""
        return [self.low, self.high]

    def __str__(self) -> str:
        how = ", log" if self.log else f", by {self.step}" if self.step else ""
        return f"{self.low} to {self.high}{how}{_told(self.when)}"


def _told(when: When) -> str:
    conditions = (f"{name} is {' or '.join(map(str, values))}" for name, values in when.items())
    return f", when {' and '.join(conditions)}" if when else ""


Domain = Fixed | Choice | Range


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _WrittenRange(_Strict):
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: dict[str, Any] = {}


class _WrittenChoice(_Strict):
    choices: list[Any]
    when: dict[str, Any] = {}


def parse_domain(name: str, written: Any) -> Domain:
    """The domain of the trial's field `name`. Raises Problem."""
    place = f"trial.{name}"
    if isinstance(written, list):
        return _choice(name, place, written, {})
    if not isinstance(written, dict):
        return Fixed(_value(name, place, written))
    if "choices" in written:
        choice = _parse(_WrittenChoice, place, written)
        return _choice(name, f"{place}.choices", choice.choices, _lists(choice.when))
    if "low" in written or "high" in written:
        return _range(name, place, _parse(_WrittenRange, place, written))
    raise Problem(
        place, f"{show_value(written)} is no domain; allowed: a value, a list, {{choices: [...]}} or {{low: , high: }}"
    )


def check_within(name: str, place: str, written: Any, domain: Domain) -> Any:
    """What is written as a value of the trial's field `name`, one that its domain has. Raises Problem."""
    value = _value(name, place, written)
    if not within(value, domain):
        raise Problem(place, f"{show_value(value)} is not in the domain of trial.{name}; allowed: {domain}")
    return value


def within(value: Any, domain: Domain) -> bool:
    """Whether a value is one of the domain's."""
    if not isinstance(domain, Range):
        return value in domain.values
    if value is None or not domain.low <= value <= domain.high:
        return False
    steps = (value - domain.low) / domain.step if domain.step else 0
    return abs(steps - round(steps)) < 1e-9


def _choice(name: str, place: str, values: list[Any], when: When) -> Choice:
    if not values:
        raise Problem(place, "an empty list leaves nothing to choose")
    checked = [_value(name, f"{place}[{i}]", value) for i, value in enumerate(values)]
    seen: set[Any] = set()
    for value in checked:
        if value in seen:
            raise Problem(place, f"{show_value(value)} stands there twice")
        seen.add(value)
    return Choice(checked, when)


def _range(name: str, place: str, written: _WrittenRange) -> Range:
    low = _value(name, f"{place}.low", written.low)
    high = _value(name, f"{place}.high", written.high)
    if low > high:
        raise Problem(place, f"low {low} is greater than high {high}")
    if written.log and low <= 0:
        raise Problem(f"{place}.low", f"a log range starts above 0, not at {low}")
    if written.log and written.step is not None:
        raise Problem(f"{place}.step", "a log range has no step")
    if written.step is not None and (written.step <= 0 or (isinstance(low, int) and not isinstance(written.step, int))):
        raise Problem(
            f"{place}.step",
            f"{written.step} is no step of this range; allowed: above 0, whole for whole numbers",
        )
    if isinstance(low, int) and high > EXACT:
        raise Problem(f"{place}.high", f"{high} is beyond 2^53, up to which a sampler keeps whole numbers exactly")
    if written.step is not None and (high - low) / written.step > EXACT:
        raise Problem(f"{place}.step", f"{written.step} divides {low} to {high} into more than 2^53 steps")
    return Range(low, high, written.log, written.step, _lists(written.when))


def _lists(when: dict[str, Any]) -> When:
    return {name: values if isinstance(values, list) else [values] for name, values in when.items()}


def _value(name: str, place: str, written: Any) -> Any:
    info = Trial.model_fields[name]
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        value = adapter.validate_python(written)
    except ValidationError as error:
        raise Problem(place, describe(error.errors()[0])) from None
    if isinstance(value, int) and abs(value) > LARGEST:
        raise Problem(place, f"{show_value(value)} should be at most 2^63 - 1")
    return value


def _parse(model: type[Any], place: str, written: Any) -> Any:
    try:
        return model.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        inside = ".".join(str(part) for part in first["loc"] if part not in ("int", "float"))
        raise Problem(f"{place}.{inside}", describe(first, model)) from None


def describe(error: Any, model: type[BaseModel] | None = None) -> str:
    """One pydantic error in the words of a study file."""
    from forcetune.names import suggestion

    if error["type"] == "extra_forbidden" and model:
        key = str(error["loc"][-1])
        return f"unknown key{suggestion(key, model.model_fields)}; allowed: {', '.join(model.model_fields)}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "model_type" and model:
        return f"{show_value(error['input'])} should have keys, of {', '.join(model.model_fields)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{show_value(error['input'])} {message}"
