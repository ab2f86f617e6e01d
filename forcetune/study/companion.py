"""The runs beside a study, such as twins and trials with other seeds, as a list that can be sent to a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forcetune.errors import InputError
from forcetune.study.domains import explain_errors
from forcetune.study.problems import summarize
from forcetune.study.sections import Section
from forcetune.study.study import Study
from forcetune.study.trial import Trial


@dataclass(frozen=True)
class Companion:
    """A run beside a study.

    Attributes:
        trial: The trial that is run.
        parent_key: The key of the study's trial for which it is run.
        tags: The tags of its MLflow run, without the prefix `forcetune.`: `arm`, the arm of a comparison; `night`, the
            date on which it was requested; `again`, only where the study has the same run already: an id that
            distinguishes the two.
    """

    trial: Trial
    parent_key: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the trial, followed by @ and the id of the re-run where it has one."""
        rerun_id = self.tags.get("again")
        return f"{self.trial.key}@{rerun_id}" if rerun_id else self.trial.key

    def plain(self) -> dict[str, Any]:
        """Return the run as data that JSON can hold."""
        return {"trial": self.trial.fields(), "of": self.parent_key, "marks": dict(self.tags)}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "Companion":
        """Return the run of which `plain` returned this data."""
        return cls(Trial(**data["trial"]), data["of"], data["marks"])


class _WrittenCompanion(Section):
    """A run as `Companion.plain` writes it."""

    trial: dict[str, Any]
    of: str
    marks: dict[str, str]


class _WrittenCompanionRuns(Section):
    """A file as `CompanionRuns.plain` writes it."""

    study: dict[str, Any]
    companions: list[_WrittenCompanion]
    night: str | None
    device_hours: float | None


@dataclass(frozen=True)
class CompanionRuns:
    """Companions of one study that are to be run; those that the study has already are not run again.

    Attributes:
        study: The study.
        companions: The companions.
        night: The date of the night for which they are run; None where they belong to no night.
        device_hours: The limit on what the companions of `night` cost, over all attempts to run the list; None for no
            limit.
    """

    study: Study
    companions: Sequence[Companion]
    night: str | None = None
    device_hours: float | None = None

    def plain(self) -> dict[str, Any]:
        """Return the list as data that JSON can hold."""
        return {
            "study": self.study.model_dump(),
            "companions": [companion.plain() for companion in self.companions],
            "night": self.night,
            "device_hours": self.device_hours,
        }


def load_companion_runs(path: str | Path) -> CompanionRuns:
    """Read the JSON file of a list of companions, as `CompanionRuns.plain` returns it.

    Args:
        path: The file.

    Returns:
        The companions and their study.

    Raises:
        InputError: The file cannot be read, or is not such a list.
    """
    try:
        written = _WrittenCompanionRuns.model_validate_json(Path(path).read_bytes())
        companions = [Companion(Trial(**run.trial), run.of, run.marks) for run in written.companions]
        return CompanionRuns(Study.from_dict(written.study), companions, written.night, written.device_hours)
    except ValidationError as error:
        reasons = explain_errors(error, Trial)
        raise InputError(f"{path} cannot be read as a list of companions: {reasons}") from error
    except (OSError, ValueError, TypeError) as error:
        reason = summarize([str(error)])
        raise InputError(f"{path} cannot be read as a list of companions: {reason}") from error
