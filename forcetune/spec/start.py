"""What a search begins with: known configurations, and studies to learn from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forcetune.names import suggestion
from forcetune.spec.domains import Fixed, Problem, check_within

if TYPE_CHECKING:
    from forcetune.spec.study import Study


def parse_start(study: "Study") -> list[dict[str, Any]]:
    """The values that each of `search.start` gives, in the order of the study's space. Raises Problem."""
    found: list[dict[str, Any]] = []
    for i, written in enumerate(study.search.start):
        values = _values(study, f"search.start.{i}", written)
        if values in found:
            raise Problem(f"search.start.{i}", f"is the same as search.start.{found.index(values)}")
        found.append(values)
    return found


def _values(study: "Study", place: str, written: Mapping[str, Any]) -> dict[str, Any]:
    for name in written:
        if name not in study.space:
            raise Problem(
                f"{place}.{name}",
                f"the study's trial has no such field{suggestion(str(name), study.space)}; "
                f"allowed: {', '.join(study.space)}",
            )
    given: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, domain in study.space.items():
        parents = sorted(study.parents(name))
        left_out = [parent for parent in parents if parent not in chosen]
        active = not left_out and study.active(name, chosen)
        if name in written:
            given[name] = chosen[name] = check_within(name, f"{place}.{name}", written[name], domain)
            if left_out:
                raise Problem(f"{place}.{name}", f"depends on {left_out[0]}, which the configuration leaves out")
            if not active:
                of = ", ".join(f"{parent} {chosen[parent]}" for parent in parents)
                raise Problem(f"{place}.{name}", f"a trial with {of} has no {name}; leave it out")
        elif active and isinstance(domain, Fixed):
            chosen[name] = domain.value
    return given


def check_warm_start(study: "Study") -> None:
    """Raise Problem where `search.warm_start` names what no sampler can learn from."""
    names, sampler = study.search.warm_start, study.search.sampler
    if names and sampler in ("grid", "random"):
        raise Problem("search.warm_start", f"`sampler: {sampler}` learns from no study; allowed: tpe, nsga2")
    for i, name in enumerate(names):
        if name == study.study:
            raise Problem(f"search.warm_start.{i}", f"{name!r} is this study, which goes on from its own trials anyway")
        if name in names[:i]:
            raise Problem(f"search.warm_start.{i}", f"{name!r} stands there twice")
