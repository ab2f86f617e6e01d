"""The JSON schema of a study file, by which an editor completes and checks the file."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from forcetune.study.study import REQUIRED_TRIAL_FIELDS, Study
from forcetune.study.trial import Trial

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DESCRIPTION = (
    "One study of forcetune. A schema cannot say everything that a study file must meet: `forcetune check FILE` checks "
    "the whole file."
)
NUMBER_TYPES = ("integer", "number")


class _WithoutTitles(GenerateJsonSchema):
    """Pydantic's generator, without a title for each field, which would only repeat the field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def make_schema() -> dict[str, Any]:
    """Make the JSON schema of a study file, of the draft 2020-12.

    Each study file that `load_study` takes is valid by the schema; some files that it refuses are valid too.

    Returns:
        The schema, as plain data.
    """
    schema = Study.model_json_schema(schema_generator=_WithoutTitles)
    fields = Trial.model_json_schema(schema_generator=_WithoutTitles)["properties"]
    values = _make_values(fields)
    references = {name: {"$ref": f"#/$defs/{_name_value(name)}"} for name in values}
    sections = schema["$defs"]
    sections["Search"]["properties"]["start"]["items"] = _make_object(references)
    sections["When"] = _make_object(
        {name: {"anyOf": [value, {"type": "array", "items": value}]} for name, value in references.items()},
        description="values of other fields with which the field applies",
    )
    sections["Trial"] = _make_object(
        {name: _make_domain(name, field, values[name], references[name]) for name, field in fields.items()},
        description="fields of a configuration; each is a value, a list to choose from, or a range",
        required=REQUIRED_TRIAL_FIELDS,
    )
    properties = schema["properties"]
    properties["loss"] |= _make_name(_list_tables()["loss"])
    properties["trial"] = {"$ref": "#/$defs/Trial"}
    for section in ("search", "resources"):
        del properties[section]["default"]  # each of its fields has its default
    definitions = {_name_value(name): value for name, value in values.items()}
    return {
        "$schema": DIALECT,
        **schema,
        "title": "forcetune study",
        "description": DESCRIPTION,
        "$defs": {**sections, **definitions},
    }


def _list_tables() -> dict[str, Iterable[str]]:
    """Return the names of the rows that a field may name, by field."""
    from forcetune.data import DATASETS
    from forcetune.models import MODELS
    from forcetune.pruning import METHODS, SALIENCY_LOSSES, SCHEDULES
    from forcetune.training import TRAINING_LOSSES

    return {
        "dataset": DATASETS,
        "model": MODELS,
        "method": METHODS,
        "schedule": SCHEDULES,
        "saliency_loss": SALIENCY_LOSSES,
        "loss": TRAINING_LOSSES,
    }


def _make_values(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the schema of one value of each field of a trial."""
    tables = _list_tables()
    return {
        name: _make_name(tables[name])
        if name in tables
        else {key: keyword for key, keyword in field.items() if key not in ("default", "description")}
        for name, field in fields.items()
    }


def _make_name(rows: Iterable[str]) -> dict[str, Any]:
    """Return the schema of a name: a row of a table, or a function of the user's own."""
    function = {"type": "string", "pattern": ":", "description": "package.module:function of your own"}
    return {"anyOf": [{"enum": [*rows]}, function]}


def _name_value(field: str) -> str:
    return f"{field}_value"


def _make_domain(
    name: str, field: Mapping[str, Any], value: Mapping[str, Any], reference: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the schema of a field under `trial:`.

    Args:
        name: The field.
        field: The schema of the field of a `Trial`.
        value: The schema of one value.
        reference: A reference to the schema of one value.
    """
    values: dict[str, Any] = {"type": "array", "description": "values to choose from", "items": reference}
    values |= {"minItems": 1, "uniqueItems": True}
    # Every trial has the required fields, so that they depend on no other field.
    when = {} if name in REQUIRED_TRIAL_FIELDS else {"when": {"$ref": "#/$defs/When"}}
    domains = [reference, values, _make_object({"choices": values, **when}, required=["choices"])]
    if number := _find_number(value):
        domains.append(_make_object({**_make_range(number), **when}, required=["low", "high"]))
    return {**{key: field[key] for key in ("description", "default") if key in field}, "anyOf": domains}


def _make_range(number: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of the keys of a range; `number` is the schema of one number in it."""
    step = {"type": number["type"], "exclusiveMinimum": 0}
    return {
        "low": {**number, "description": "lowest number, included"},
        "high": {**number, "description": "highest number, included"},
        "log": {"type": "boolean", "description": "whether the logarithm of the number is sampled evenly"},
        "step": {"anyOf": [step, {"type": "null"}], "description": "distance between the numbers (none)"},
    }


def _find_number(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of the numbers among the values of a field; None where no value is a number."""
    return next((option for option in (value, *value.get("anyOf", ())) if option.get("type") in NUMBER_TYPES), None)


def _make_object(properties: Mapping[str, Any], **keywords: Any) -> dict[str, Any]:
    """Return the schema of a mapping with these keys and no others."""
    return {**keywords, "type": "object", "properties": {**properties}, "additionalProperties": False}
