"""A night: sentinels that run again, fresh seeds for undecided comparisons, and conclusions from all nights so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from forcetune import tracking
from forcetune.analysis import Standing
from forcetune.baseline import sentinels
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.evidence import Margins
from forcetune.baseline.findings import Findings, compute_standings, conclude_night, is_open
from forcetune.baseline.page import render_page
from forcetune.baseline.registered import add_proofs
from forcetune.baseline.sending import Sender
from forcetune.baseline.twins import Comparison
from forcetune.errors import HeldError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.names import NIGHTLY_EXPERIMENT, VERDICTS_FILE
from forcetune.programs import start_program
from forcetune.search.printing import print_line
from forcetune.state_files import write_whole
from forcetune.stores import optuna_uri
from forcetune.study import Companion, CompanionRuns, load_nightly

DECIDED_PAIRS_PER_NIGHT = 1  # new pairs show whether a decided comparison stays as it is


@dataclass(frozen=True)
class Share:
    """The work of a night for one study.

    Attributes:
        study: The name of the study.
        companions: The runs, the most important first.
        device_hours: The estimated device hours of the runs.
        notes: The reasons of the champions that are compared with nothing, a sentence each.
    """

    study: str
    companions: Sequence[Companion]
    device_hours: float
    notes: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """Return the share as data that JSON can hold."""
        return {**vars(self), "companions": [companion.plain() for companion in self.companions]}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Share:
        """Make a share from the data that `plain` returned.

        Args:
            data: The data.
        """
        return cls(**{**data, "companions": [Companion.from_plain(companion) for companion in data["companions"]]})


class Nights:
    """The nights of one file.

    Args:
        file: The nightly file.
        console: Prints the progress.

    Attributes:
        settings: The content of the file.
        pages: The pages that `run` has written into the current folder.

    Raises:
        InputError: The file, or a study that it names, cannot be used.
    """

    def __init__(self, file: Path, console: Console) -> None:
        self._file = file
        self._console = console
        self.settings = load_nightly(file)
        self._since = self.settings.since.isoformat() if self.settings.since else ""
        self._margins = Margins(self.settings.margin, self.settings.collapse_margin)
        self.pages: list[Path] = []
        self._champion_studies = [
            ChampionStudy(name, self.settings.top, self.settings.bands) for name in self.settings.studies
        ]

    def plan(self, night: str) -> list[Share]:
        """Plan a night that begins now; nothing is written.

        Args:
            night: The date of the night.

        Returns:
            The share of each study.
        """
        standings = compute_standings(self._champion_studies, self._margins)
        return [self._plan_share(champion_study, standings, night) for champion_study in self._champion_studies]

    def run(self, night: str, send: Sender) -> list[Findings]:
        """Run what is missing of earlier nights that have died, then of this night.

        Args:
            night: The date of the night.
            send: Runs companions to their end.

        Returns:
            The findings of each night, this night's last.

        Raises:
            HeldError: Another process runs a night of this file.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(driver_lock(f"nightly.{self._file.stem}", optuna_uri()))
            except HeldError as error:
                raise HeldError(f"another process runs a night of {self._file}: {error}") from None
            return [self._run_night(due_night, send) for due_night in [*self._list_unfinished(night), night]]

    def _list_unfinished(self, night: str) -> list[str]:
        """List the earlier nights that have begun and not ended."""
        begun = [run for run in tracking.list_records(NIGHTLY_EXPERIMENT, "nightly") if run["status"] == "RUNNING"]
        nights = {(run["tags"]["forcetune.night"], run["name"]) for run in begun}  # of all nightly files
        return sorted(
            earlier_night
            for earlier_night, name in nights
            if name == self._make_run_name(earlier_night) and earlier_night < night
        )

    def _make_run_name(self, night: str) -> str:
        return f"{self._file.stem}-{night}"

    def _run_night(self, night: str, send: Sender) -> Findings:
        record = tracking.Record(NIGHTLY_EXPERIMENT, "nightly", self._make_run_name(night), {"forcetune.night": night})
        shares, is_over = self._read_plan(record, night), record.is_finished
        for index, (champion_study, share) in enumerate(zip(self._champion_studies, shares, strict=True)):
            if not is_over:
                self._run_share(champion_study, share, night, send, len(shares) - index)
        notes = [
            *(note for share in shares for note in share.notes),
            *self._describe_left_runs(shares),
            *self._describe_changed_margins(night),
        ]
        findings = conclude_night(self._champion_studies, night, self._margins, self._since, notes, record.run)
        findings = add_proofs(findings, self._champion_studies, record)
        if not is_over:
            self._write_findings(record, findings)
        return findings

    def _read_plan(self, record: tracking.Record, night: str) -> list[Share]:
        """Return the plan that the night began with; write it where there is none.

        What the night has found since it began must not change what it runs.
        """
        written = record.read("plan.json")
        if written is None:
            shares = self.plan(night)
            record.write("plan.json", json.dumps([share.plain() for share in shares], indent=1))
            return shares
        shares_by_study = {share_data["study"]: Share.from_plain(share_data) for share_data in written}
        return [
            shares_by_study.get(champion_study.name, Share(champion_study.name, [], 0.0, []))
            for champion_study in self._champion_studies
        ]

    def _run_share(
        self, champion_study: ChampionStudy, share: Share, night: str, send: Sender, studies_left: int
    ) -> None:
        """Run what is missing of a study's share, within its part of the hours that the other studies have left."""
        device_hours = None
        if self.settings.budget is not None:
            spent_hours = sum(
                other_study.sum_device_hours(night)
                for other_study in self._champion_studies
                if other_study is not champion_study
            )
            device_hours = max(self.settings.budget - spent_hours, 0.0) / studies_left
        missing = champion_study.companions.find_missing(share.companions)
        if missing and (device_hours is None or device_hours > champion_study.sum_device_hours(night)):
            print_line(self._console, f"{champion_study.name}: {len(missing)} runs")
            send(CompanionRuns(champion_study.study, missing, night, device_hours))
            champion_study.refresh()

    def _plan_share(
        self, champion_study: ChampionStudy, standings: Mapping[str, Sequence[Standing]], night: str
    ) -> Share:
        """Plan sentinels, then seeds of undecided or contested comparisons, then tuning, then seeds of the others.

        The standings are those of all studies of the file, which are judged together.
        """
        by_champion = [champion_study.list_comparisons(champion, night) for champion in champion_study.champions]
        comparisons = [comparison for group, _ in by_champion for comparison in group]
        undecided = [comparison for comparison in comparisons if is_open(standings.get(comparison.name))]
        decided = [comparison for comparison in comparisons if comparison not in undecided]
        runs = [
            *self._plan_sentinels(champion_study, comparisons, night),
            *_plan_pairs(champion_study, undecided, self.settings.seeds, night),
            *(companion for _, tuning_runs in by_champion for companion in tuning_runs),
            *_plan_pairs(champion_study, decided, DECIDED_PAIRS_PER_NIGHT, night),
        ]
        missing = champion_study.companions.find_missing(runs)
        exclusions = [f"{champion_study.name}: {reason}" for reason in champion_study.exclusion_reasons]
        return Share(champion_study.name, missing, champion_study.estimate_device_hours(missing), exclusions)

    def _plan_sentinels(
        self, champion_study: ChampionStudy, comparisons: Sequence[Comparison], night: str
    ) -> list[Companion]:
        """Return the first night's pair; tonight's first champion gives one where that pair does not exist."""
        first_champion = champion_study.find_champion(
            sentinels.find_sentinel_champion(champion_study.companion_table, self._since)
        )
        candidates = [*(champion_study.list_comparisons(first_champion)[0] if first_champion else []), *comparisons]
        sentinel = next(
            (comparison for comparison in candidates if comparison.against == sentinels.SENTINEL_TWIN_ARM), None
        )
        seeds = [champion_study.pair_seed(pair_index) for pair_index in range(self.settings.sentinels)]
        return sentinels.plan_sentinels(sentinel, seeds, night) if sentinel else []

    def _describe_left_runs(self, shares: Sequence[Share]) -> list[str]:
        """Describe the runs of the plan that the budget did not allow."""
        return [
            f"{champion_study.name}: {len(missing)} of {len(share.companions)} runs were not started, because the "
            "budget is used up"
            for champion_study, share in zip(self._champion_studies, shares, strict=True)
            if (missing := champion_study.companions.find_missing(share.companions))
        ]

    def _describe_changed_margins(self, night: str) -> list[str]:
        """Describe the margins that differ from those of the night before: they rewrite all verdicts."""
        earlier_nights = [
            run
            for run in tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
            if run["tags"]["forcetune.night"] < night
            and run["name"] == self._make_run_name(run["tags"]["forcetune.night"])
            and "margin" in run["metrics"]
        ]
        if not earlier_nights:
            return []
        before = max(earlier_nights, key=lambda run: str(run["tags"]["forcetune.night"]))
        return [
            f"{name} was {before['metrics'][name]:g} in the night of {before['tags']['forcetune.night']} and is "
            f"{margin:g} now: the verdicts of all nights are computed again with it"
            for name, margin in self._margin_metrics.items()
            if before["metrics"].get(name, margin) != margin
        ]

    @property
    def _margin_metrics(self) -> dict[str, float]:
        """The margins, by the names of the metrics that keep them."""
        return {"margin": self._margins.accuracy, "collapse_margin": self._margins.collapses}

    def _write_findings(self, record: tracking.Record, findings: Findings) -> None:
        """Write the findings into the night's run, start the alarm program on an alarm, and close the run."""
        record.write(VERDICTS_FILE, findings.verdicts.to_json(orient="records", indent=1))
        record.write("night.html", html := render_page(findings, self.settings.margin))
        self._write_page(html)
        counts = Counter(findings.verdicts.get("holds", ()))
        metrics = {
            "alarms": float(len(findings.alarms)),
            **self._margin_metrics,
            **{str(verdict): float(count) for verdict, count in counts.items()},
        }
        outcome = "alarm" if findings.alarms else "quiet"
        record.log(metrics, {"forcetune.outcome": outcome, "forcetune.reason": "\n".join(findings.alarms)})
        if findings.alarms and self.settings.on_alarm:
            self._start_alarm_program("\n".join([f"forcetune nightly, {findings.night}", *findings.alarms, ""]))
        record.close()

    def _write_page(self, html: str) -> None:
        """Write the page into the current folder too, where that is possible; a later page replaces an earlier one."""
        path = Path.cwd() / f"{self._file.stem}.html"
        try:
            write_whole(path, html.encode())
            self.pages.append(path)
        except OSError as error:
            print_line(self._console, f"{path}: {error.strerror}; the page is in MLflow")

    def _start_alarm_program(self, text: str) -> None:
        if failure := start_program(self.settings.on_alarm, text):
            print_line(self._console, f"on_alarm: {failure}")


def load_last_nights() -> dict[str, dict[str, Any]]:
    """Load the last night of each nightly file.

    Returns:
        By the name of the file without its suffix: night (the date), outcome (`quiet`, `alarm` or `unfinished`),
        alarms, verdicts and run (the id in MLflow).
    """
    last_runs = {}
    records = tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    for run in sorted(records, key=lambda record: record["tags"]["forcetune.night"]):  # an earlier date may run later
        tags = run["tags"]
        night = tags["forcetune.night"]
        last_runs[run["name"].removesuffix(f"-{night}")] = {
            "night": night,
            "outcome": tags.get("forcetune.outcome", "unfinished"),
            "alarms": tags.get("forcetune.reason", "").splitlines(),
            "verdicts": tracking.read_json(run["id"], VERDICTS_FILE) or [],
            "run": run["id"],
        }
    return last_runs


def _plan_pairs(
    champion_study: ChampionStudy, comparisons: Sequence[Comparison], count: int, night: str
) -> list[Companion]:
    """Return the next `count` pairs of each comparison: the first pair of each, then the second pair of each."""
    pair_indices = {
        comparison.name: champion_study.find_free_pair_indices(comparison, count) for comparison in comparisons
    }
    return [
        companion
        for turn in range(count)
        for comparison in comparisons
        for companion in comparison.make_companions(
            champion_study.pair_seed(pair_indices[comparison.name][turn]), night
        )
    ]
