"""The start of a search: known configurations, and studies to learn from."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forcetune.names import suggestion
from forcetune.study.domains import Fixed, check_in_domain
from forcetune.study.problems import Problem

if TYPE_CHECKING:
    from forcetune.study.study import Study


def parse_start(study: "Study") -> list[dict[str, Any]]:
    """Return the values that each configuration of `search.start` sets, in the order of the study's space.

    Raises:
        Problem: The study can never propose one of them.
    """
    return [_parse_values(study, f"search.start.{i}", written) for i, written in enumerate(study.search.start)]


def start_problems(study: "Study") -> Iterator[Problem]:
    """Yield a problem for each of `search.start` that the study can never propose, or that is there twice."""
    first_index: dict[tuple[tuple[str, Any], ...], int] = {}
    for i, written in enumerate(study.search.start):
        try:
            values = tuple(_parse_values(study, f"search.start.{i}", written).items())
        except Problem as problem:
            yield problem
            continue
        if first_index.setdefault(values, i) != i:
            yield Problem(f"search.start.{i}", f"is the same as search.start.{first_index[values]}")


def _parse_values(study: "Study", position: str, written: Mapping[str, Any]) -> dict[str, Any]:
    for name in written:
        if name not in study.space:
            raise Problem(
                f"{position}.{name}",
                f"the study's trial has no such field{suggestion(str(name), study.space)}; "
                f"allowed: {', '.join(study.space)}",
            )
    start_values: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, domain in study.space.items():
        parents = sorted(study.parents(name))
        left_out = [parent for parent in parents if parent not in chosen]
        is_active = not left_out and study.is_active(name, chosen)
        if name in written:
            start_values[name] = chosen[name] = check_in_domain(name, f"{position}.{name}", written[name], domain)
            if left_out:
                parent = left_out[0]
                raise Problem(f"{position}.{name}", f"depends on {parent}; set {parent} in the configuration too")
            if not is_active:
                parent_values = ", ".join(f"{parent} {chosen[parent]}" for parent in parents)
                raise Problem(f"{position}.{name}", f"a trial with {parent_values} has no {name}; remove it")
        elif is_active and isinstance(domain, Fixed):
            chosen[name] = domain.value
    return start_values


def warm_start_problems(study: "Study") -> Iterator[Problem]:
    """Yield a problem for each name in `search.warm_start` that no sampler can learn from."""
    names, sampler = study.search.warm_start, study.search.sampler
    if names and sampler in ("grid", "random"):
        yield Problem(
            "search.warm_start", f"`sampler: {sampler}` cannot learn from other studies; allowed: tpe, front, nsga2"
        )
    for i, name in enumerate(names):
        if name == study.study:
            message = f"{name!r} is this study; a study always continues from its own trials"
            yield Problem(f"search.warm_start.{i}", message)
        if name in names[:i]:
            yield Problem(f"search.warm_start.{i}", f"{name!r} is listed twice")
