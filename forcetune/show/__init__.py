"""The output of the commands: tables and sentences on the terminal."""

from forcetune.show.effects import effects, importance
from forcetune.show.fronts import controls, costs, dense, follow, front
from forcetune.show.layout import console, drop_missing
from forcetune.show.nights import describe_plan, night, schedule, shares, verdicts
from forcetune.show.services import jobs, service
from forcetune.show.studies import comparison, cost, findings, masks, network, study

__all__ = [
    "comparison",
    "console",
    "controls",
    "cost",
    "costs",
    "dense",
    "describe_plan",
    "drop_missing",
    "effects",
    "findings",
    "follow",
    "front",
    "importance",
    "jobs",
    "masks",
    "network",
    "night",
    "schedule",
    "service",
    "shares",
    "study",
    "verdicts",
]
