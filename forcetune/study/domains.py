"""The domain of a field under `trial:`: one value, a choice or a range, which may depend on other fields (`when`)."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from forcetune.study.problems import LARGEST_INTEGER, Problem, show_value, summarize
from forcetune.study.sections import Section
from forcetune.study.trial import Trial

LARGEST_EXACT_INTEGER = 2**53  # whole numbers up to here are exact in Optuna's stores

When = dict[str, list[Any]]  # the values of other fields with which a field applies


@dataclass(frozen=True)
class Fixed:
    """The domain of one value for every trial.

    Attributes:
        value: The value.
        when: The values of other fields with which the field applies.
    """

    value: Any
    when: When = field(default_factory=dict)

    @property
    def values(self) -> list[Any]:
        """The value, as a list."""
        return [self.value]

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Choice:
    """The domain of a list of values.

    Attributes:
        values: The values, each once.
        when: The values of other fields with which the field applies.
    """

    values: list[Any]
    when: When = field(default_factory=dict)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}{_format_when(self.when)}"


@dataclass(frozen=True)
class Range:
    """The domain of the numbers from low to high.

    Attributes:
        low: The lowest number, included.
        high: The highest number, included.
        log: Whether the logarithm of the number is sampled evenly.
        step: The distance between the numbers; None for all of them.
        when: The values of other fields with which the field applies.
    """

    low: Any
    high: Any
    log: bool = False
    step: Any = None
    when: When = field(default_factory=dict)

    @property
    def values(self) -> list[Any]:
        """The two ends, with which a range is checked."""
        return [self.low, self.high]

    def __str__(self) -> str:
        sampling = ", log" if self.log else f", by {self.step}" if self.step else ""
        return f"{self.low} to {self.high}{sampling}{_format_when(self.when)}"


def _format_when(when: When) -> str:
    conditions = (f"{name} is {' or '.join(map(str, values))}" for name, values in when.items())
    return f", when {' and '.join(conditions)}" if when else ""


Domain = Fixed | Choice | Range


class _WrittenRange(Section):
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: dict[str, Any] = Field(default={})


class _WrittenChoice(Section):
    choices: list[Any]
    when: dict[str, Any] = Field(default={})


def parse_domain(name: str, written: Any) -> Domain:
    """Return the domain of a trial's field.

    Args:
        name: The field.
        written: The content of the file for it.

    Returns:
        The domain.

    Raises:
        Problem: The content is not a domain of this field.
    """
    position = f"trial.{name}"
    if isinstance(written, list):
        return _parse_choice(name, position, written, {})
    if not isinstance(written, dict):
        return Fixed(_parse_value(name, position, written))
    if "choices" in written:
        choice = _parse(_WrittenChoice, position, written)
        return _parse_choice(name, f"{position}.choices", choice.choices, _to_lists(choice.when))
    if "low" in written or "high" in written:
        return _parse_range(name, position, _parse(_WrittenRange, position, written))
    raise Problem(
        position,
        f"{show_value(written)} is not a domain; allowed: a value, a list, {{choices: [...]}} or {{low: , high: }}",
    )


def check_in_domain(name: str, position: str, written: Any, domain: Domain) -> Any:
    """Return a value of a trial's field, checked against its domain.

    Args:
        name: The field.
        position: The position of the value in the file.
        written: The content of the file for it.
        domain: The domain of the field.

    Returns:
        The value.

    Raises:
        Problem: The content is not a value of this field, or not in the domain.
    """
    value = _parse_value(name, position, written)
    if not is_in_domain(value, domain):
        raise Problem(position, f"{show_value(value)} is not in the domain of trial.{name}; allowed: {domain}")
    return value


def is_in_domain(value: Any, domain: Domain) -> bool:
    """Return whether a value is in a domain."""
    if not isinstance(domain, Range):
        return value in domain.values
    if value is None or not domain.low <= value <= domain.high:
        return False
    steps: float = (value - domain.low) / domain.step if domain.step else 0
    return abs(steps - round(steps)) < 1e-9


def _parse_choice(name: str, position: str, values: list[Any], when: When) -> Choice:
    if not values:
        raise Problem(position, "the list is empty; give at least one value")
    checked = [_parse_value(name, f"{position}[{i}]", value) for i, value in enumerate(values)]
    seen: set[Any] = set()
    for value in checked:
        if value in seen:
            raise Problem(position, f"{show_value(value)} is listed twice")
        seen.add(value)
    return Choice(checked, when)


def _parse_range(name: str, position: str, written: _WrittenRange) -> Range:
    low = _parse_value(name, f"{position}.low", written.low)
    high = _parse_value(name, f"{position}.high", written.high)
    if low > high:
        raise Problem(position, f"low {low} is greater than high {high}")
    if written.log and low <= 0:
        raise Problem(f"{position}.low", f"low must be above 0 in a log range, not {low}")
    if written.log and written.step is not None:
        raise Problem(f"{position}.step", "a log range cannot have a step")
    if written.step is not None and (written.step <= 0 or (isinstance(low, int) and not isinstance(written.step, int))):
        raise Problem(
            f"{position}.step",
            f"{written.step} is not a valid step; allowed: a number above 0, a whole number where the range has whole "
            "numbers",
        )
    if isinstance(low, int) and high > LARGEST_EXACT_INTEGER:
        raise Problem(
            f"{position}.high", f"{high} is greater than 2^53, the largest whole number that a sampler stores exactly"
        )
    if written.step is not None and (high - low) / written.step > LARGEST_EXACT_INTEGER:
        raise Problem(f"{position}.step", f"{written.step} divides the range {low} to {high} into more than 2^53 steps")
    return Range(low, high, written.log, written.step, _to_lists(written.when))


def _to_lists(when: dict[str, Any]) -> When:
    return {name: values if isinstance(values, list) else [values] for name, values in when.items()}


def _parse_value(name: str, position: str, written: Any) -> Any:
    info = Trial.model_fields[name]
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        value = adapter.validate_python(written)
    except ValidationError as error:
        raise Problem(position, describe_error(error.errors()[0])) from None
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise Problem(position, f"{show_value(value)} should be at most 2^63 - 1")
    return value


def _parse(model: type[Any], position: str, written: Any) -> Any:
    try:
        return model.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(str(key) for key in first["loc"] if key not in ("int", "float"))
        raise Problem(f"{position}.{keys}", describe_error(first, model)) from None


def describe_error(error: Any, model: type[BaseModel] | None = None) -> str:
    """Return the message of a pydantic error in the words of a study file; `model` has the keys that are allowed."""
    from forcetune.names import suggestion

    if error["type"] == "extra_forbidden" and model:
        key = str(error["loc"][-1])
        return f"unknown key{suggestion(key, model.model_fields)}; allowed: {', '.join(model.model_fields)}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "model_type" and model:
        return f"{show_value(error['input'])} must be a mapping with keys among {', '.join(model.model_fields)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{show_value(error['input'])} {message}"


def explain_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the errors of pydantic about a file as one paragraph, each with its position in the file.

    Args:
        error: The errors.
        model: The model that has the keys of the file.
    """
    return summarize(
        f"{'.'.join(map(str, details['loc'])) or 'file'}: {describe_error(details, model)}"
        for details in error.errors(include_url=False)
    )
