"""What runs beside a study: its trials with other seeds and their twins, as a list that a job can be sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from forcetune.errors import InputError
from forcetune.spec.domains import describe
from forcetune.spec.problems import summarize
from forcetune.spec.study import Study
from forcetune.spec.trial import Trial


@dataclass(frozen=True)
class Companion:
    """One run: `of` is the key of the study's trial that it is there for, `marks` say what it is, as tags of its run.

    marks: `arm`, the side of a comparison that it is on; `night`, the date on which it was asked for; `again`, where
    it is run though the study has it: what tells it from the run before.
    """

    trial: Trial
    of: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The trial's; with what is after the @ it is run again."""
        again = self.marks.get("again")
        return f"{self.trial.key}@{again}" if again else self.trial.key

    def plain(self) -> dict[str, Any]:
        """As data that JSON knows."""
        return {"trial": self.trial.fields(), "of": self.of, "marks": dict(self.marks)}

    @classmethod
    def of_plain(cls, told: Mapping[str, Any]) -> "Companion":
        """From what `plain` gave."""
        return cls(Trial(**told["trial"]), told["of"], told["marks"])


class _WrittenCompanion(BaseModel):
    """One run as `Companion.plain` wrote it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trial: dict[str, Any]
    of: str
    marks: dict[str, str]


class _WrittenErrand(BaseModel):
    """A file as `Errand.plain` wrote it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    study: dict[str, Any]
    companions: list[_WrittenCompanion]
    night: str | None
    device_hours: float | None


@dataclass(frozen=True)
class CompanionRuns:
    """Companions of one study to be run; those that it has already are not run again.

    device_hours: that those of `night` may cost, no matter how often the errand is taken up (no limit).
    """

    study: Study
    companions: Sequence[Companion]
    night: str | None = None
    device_hours: float | None = None

    def plain(self) -> dict[str, Any]:
        """As data that JSON knows."""
        return {
            "study": self.study.model_dump(),
            "companions": [one.plain() for one in self.companions],
            "night": self.night,
            "device_hours": self.device_hours,
        }


def load_companion_runs(path: str | Path) -> CompanionRuns:
    """Read what `Errand.plain` gave, written as JSON. Raises InputError where the file is none."""
    try:
        written = _WrittenErrand.model_validate_json(Path(path).read_bytes())
        companions = [Companion(Trial(**run.trial), run.of, run.marks) for run in written.companions]
        return CompanionRuns(Study.from_dict(written.study), companions, written.night, written.device_hours)
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {describe(e, Trial)}" for e in error.errors(include_url=False)
        ]
        raise InputError(f"{path}: not readable as a list of companions: {summarize(reasons)}") from error
    except (OSError, ValueError, TypeError) as error:
        reason = summarize([str(error)])
        raise InputError(f"{path}: not readable as a list of companions: {reason}") from error
