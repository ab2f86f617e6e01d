"""One night: sentinels run anew, fresh seeds for what is not decided, and what follows from all nights so far."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from forcetune import tracking
from forcetune.baseline import sentinels
from forcetune.baseline.bench import Bench
from forcetune.baseline.findings import Findings, conclude, holds, standings
from forcetune.baseline.page import page
from forcetune.baseline.sending import Send
from forcetune.baseline.twins import Comparison
from forcetune.errors import HeldError
from forcetune.search.hold import hold
from forcetune.spec import Companion, Errand, load_nightly
from forcetune.stores import optuna_uri

EXPERIMENT = "forcetune-nightly"
WATCHED = 1  # pairs a night for a comparison that is decided: it has to stay so
TOLD = 60.0  # seconds that the program gets which is told of an alarm


@dataclass(frozen=True)
class Share:
    """What a night has to do for one study, the most important first; what it costs, and what is to be known of it."""

    study: str
    companions: Sequence[Companion]
    device_hours: float
    notes: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """As data that JSON knows."""
        return {**vars(self), "companions": [one.plain() for one in self.companions]}

    @classmethod
    def of_plain(cls, told: Mapping[str, Any]) -> Share:
        """From what `plain` gave."""
        return cls(**{**told, "companions": [Companion.of_plain(one) for one in told["companions"]]})


class Nights:
    """The nights of one file. Raises InputError where the file, or a study in it, cannot be used."""

    def __init__(self, file: Path, console: Console) -> None:
        self._file = file
        self._console = console
        self.asked = load_nightly(file)
        self._since = self.asked.since.isoformat() if self.asked.since else ""
        self.pages: list[Path] = []  # that were written beside the stores
        self._benches = [Bench(name, self.asked.top, self.asked.bands) for name in self.asked.studies]

    def plan(self, night: str) -> list[Share]:
        """What a night would do that began now."""
        return [self._share(bench, night) for bench in self._benches]

    def run(self, night: str, send: Send) -> list[Findings]:
        """Do what is missing of earlier nights that died, then of this one.

        Raises HeldError where another process is at it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(f"nightly.{self._file.stem}", optuna_uri()))
            except HeldError as error:
                raise HeldError(f"a night of {self._file} is not over: {error}") from None
            return [self._run(each, send) for each in [*self._died(night), night]]

    def _died(self, night: str) -> list[str]:
        """Earlier nights that were begun and have not ended."""
        begun = [run for run in tracking.records(EXPERIMENT, "nightly") if run["status"] == "RUNNING"]
        nights = {run["tags"]["forcetune.night"]: run["name"] for run in begun}
        return sorted(each for each, name in nights.items() if name == self._name(each) and each < night)

    def _name(self, night: str) -> str:
        return f"{self._file.stem}-{night}"

    def _run(self, night: str, send: Send) -> Findings:
        record = tracking.Record(EXPERIMENT, "nightly", self._name(night), {"forcetune.night": night})
        shares, over = self._agreed(record, night), record.finished
        for place, (bench, share) in enumerate(zip(self._benches, shares, strict=True)):
            if not over:
                self._send(bench, share, night, send, len(shares) - place)
        notes = [note for share in shares for note in share.notes] + self._left(shares)
        findings = conclude(self._benches, night, self.asked.margin, self._since, notes, record.run)
        if not over:
            self._keep(record, findings)
        return findings

    def _agreed(self, record: tracking.Record, night: str) -> list[Share]:
        """The plan that the night began with: what it has found since then must not change what it does."""
        written = record.read("plan.json")
        if written is None:
            shares = self.plan(night)
            record.write("plan.json", json.dumps([share.plain() for share in shares], indent=1))
            return shares
        known = {told["study"]: Share.of_plain(told) for told in written}
        return [known.get(bench.name, Share(bench.name, [], 0.0, [])) for bench in self._benches]

    def _send(self, bench: Bench, share: Share, night: str, send: Send, left: int) -> None:
        """Run what is missing of a study's share, with its part of what the studies before it have left."""
        hours = None
        if self.asked.budget is not None:
            others = sum(each.spent(night) for each in self._benches if each is not bench)
            hours = max(self.asked.budget - others, 0.0) / left
        missing = bench.companions.lacks(share.companions)
        if missing and (hours is None or hours > bench.spent(night)):
            self._console.print(f"{bench.name}: {len(missing)} runs", highlight=False)
            send(Errand(bench.study, missing, night, hours))
            bench.refresh()

    def _share(self, bench: Bench, night: str) -> Share:
        """Sentinels, fresh seeds for what is undecided, tuning, and a seed for what is decided."""
        found = [bench.comparisons(champion, night) for champion in bench.champions]
        comparisons = [one for each, _ in found for one in each]
        stood = standings([bench], self.asked.margin)
        undecided = [one for one in comparisons if holds(stood.get(one.name)) == "undecided"]
        runs = [
            *self._sentinels(bench, comparisons, night),
            *_pairs(bench, undecided, self.asked.seeds, night),
            *(one for _, lacking in found for one in lacking),
            *_pairs(bench, [one for one in comparisons if one not in undecided], WATCHED, night),
        ]
        wanted = bench.companions.lacks(runs)
        chance = [f"{bench.name}: {why}" for champion in bench.champions if (why := champion.by_chance)]
        return Share(bench.name, wanted, bench.device_hours(wanted), chance)

    def _sentinels(self, bench: Bench, comparisons: Sequence[Comparison], night: str) -> list[Companion]:
        """The pair of the first night, or of tonight's first champion where there was none, or it is gone."""
        first = bench.champion(sentinels.chosen(bench.beside, self._since))
        known = [*(bench.comparisons(first)[0] if first else []), *comparisons]
        pair = next((one for one in known if one.against == sentinels.TWIN), None)
        seeds = [bench.seed(place) for place in range(self.asked.sentinels)]
        return sentinels.asked(pair, seeds, night) if pair else []

    def _left(self, shares: Sequence[Share]) -> list[str]:
        """What of the plan was not run, since the budget was used up."""
        return [
            f"{bench.name}: {len(left)} of {len(share.companions)} runs are left for other nights"
            for bench, share in zip(self._benches, shares, strict=True)
            if (left := bench.companions.lacks(share.companions))
        ]

    def _keep(self, record: tracking.Record, findings: Findings) -> None:
        """Write what was found, tell whoever is to be told of an alarm, and close the night."""
        record.write("verdicts.json", findings.verdicts.to_json(orient="records", indent=1))
        record.write("night.html", text := page(findings, self.asked.margin))
        self._write_here(text)
        counts = Counter(findings.verdicts.get("holds", ()))
        metrics = {"alarms": float(len(findings.alarms)), **{str(name): float(n) for name, n in counts.items()}}
        outcome = "alarm" if findings.alarms else "quiet"
        record.log(metrics, {"forcetune.outcome": outcome, "forcetune.reason": "\n".join(findings.alarms)})
        if findings.alarms and self.asked.on_alarm:
            self._tell("\n".join([f"forcetune nightly, {findings.night}", *findings.alarms, ""]))
        record.close()

    def _write_here(self, text: str) -> None:
        """The page in the current folder too, where it can be: the latest stands under one name."""
        path = Path.cwd() / f"{self._file.stem}.html"
        try:
            part = path.with_name(f"{path.name}~")
            part.write_text(text)
            part.replace(path)  # whoever opens the page meanwhile has a whole one
            self.pages.append(path)
        except OSError as error:
            self._console.print(f"{path}: {error.strerror}; the page is in MLflow", soft_wrap=True, highlight=False)

    def _tell(self, text: str) -> None:
        try:
            subprocess.run(self.asked.on_alarm, input=text, text=True, check=True, timeout=TOLD)
        except (OSError, subprocess.SubprocessError) as error:
            self._console.print(f"on_alarm: {error}", soft_wrap=True, highlight=False)


def last_nights() -> dict[str, dict[str, Any]]:
    """Of each file's last night: its date, outcome (`quiet`, `alarm` or `unfinished`), alarms, verdicts and run."""
    found = {}
    for run in tracking.records(EXPERIMENT, "nightly"):
        tags = run["tags"]
        night = tags["forcetune.night"]
        found[run["name"].removesuffix(f"-{night}")] = {
            "night": night,
            "outcome": tags.get("forcetune.outcome", "unfinished"),
            "alarms": tags.get("forcetune.reason", "").splitlines(),
            "verdicts": tracking.read_json(run["id"], "verdicts.json") or [],
            "run": run["id"],
        }
    return found


def _pairs(bench: Bench, comparisons: Sequence[Comparison], count: int, night: str) -> list[Companion]:
    """So many further pairs of each comparison, the first of all before the second of any."""
    places = {one.name: bench.free_places(one, count) for one in comparisons}
    return [
        side
        for turn in range(count)
        for one in comparisons
        for side in one.sides(bench.seed(places[one.name][turn]), night)
    ]
