"""The registered networks of a night's studies: their files are proved again, and one that disagrees gives an alarm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from forcetune import tracking
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.errors import InputError
from forcetune.formats import format_percent
from forcetune.report.tables import Table

if TYPE_CHECKING:
    from forcetune.baseline.findings import Findings
    from forcetune.deploy.proving import Proof

PROOFS_FILE = "registered.json"  # among the artifacts of a night's run


def add_proofs(findings: Findings, champion_studies: Sequence[ChampionStudy], record: tracking.Record) -> Findings:
    """Return the findings of a night with the proofs of the registered networks of its studies.

    The versions that an alias names and the versions of champions are proved. A night that is called again reads the
    proofs that it has written before. A version that cannot be proved on this machine gives a note, and a version that
    disagrees gives an alarm.

    Args:
        findings: The findings without proofs.
        champion_studies: The studies and their champions.
        record: The night's run in MLflow.
    """
    from forcetune.deploy.proving import Proof

    written = record.read(PROOFS_FILE)
    if written is None:
        proofs, notes = _prove_all(champion_studies)
        if not record.is_finished:
            record.write(PROOFS_FILE, json.dumps({"proofs": [proof.plain() for proof in proofs], "notes": notes}))
    else:
        proofs, notes = [Proof.from_plain(content) for content in written["proofs"]], written["notes"]
    alarms = [f"{proof.label} {proof.problem}" for proof in proofs if proof.problem]
    obstacles = [f"{proof.label} was not tested: {proof.obstacle}" for proof in proofs if proof.obstacle]
    return replace(
        findings,
        proofs=proofs,
        alarms=[*findings.alarms, *alarms],
        notes=[*findings.notes, *notes, *obstacles],
    )


def _prove_all(champion_studies: Sequence[ChampionStudy]) -> tuple[list[Proof], list[str]]:
    from forcetune.deploy.proving import prove_registered

    proofs, notes = [], []
    for champion_study in champion_studies:
        runs = {champion.run_id for champion in champion_study.champions}
        try:
            proofs += prove_registered(champion_study.name, runs)
        except InputError as error:
            notes.append(f"{champion_study.name}: its registered networks were not tested: {error}")
    return proofs, notes


def tabulate_proofs(proofs: Sequence[Proof]) -> Table:
    """Return a table with a row for each proof."""
    header = ["study", "registered model", "version", "aliases", "accuracy", "expected", "images", "file"]
    rows = [
        [
            proof.study,
            proof.model,
            str(proof.version),
            ", ".join(proof.aliases) or "-",
            "-" if proof.accuracy is None else format_percent(proof.accuracy),
            "-" if proof.expected is None else format_percent(proof.expected),
            str(proof.samples) if proof.samples else "-",
            "alarm" if proof.problem else "not tested" if proof.obstacle else "agrees",
        ]
        for proof in proofs
    ]
    return Table(header, rows, {"study", "registered model", "aliases", "file"})
