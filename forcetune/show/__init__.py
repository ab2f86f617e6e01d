"""What the commands print: tables on the terminal."""

from forcetune.show.effects import effects, importance
from forcetune.show.fronts import controls, costs, dense, follow, front
from forcetune.show.layout import console, present
from forcetune.show.nights import night, plan_of_comparisons, schedule, shares, verdicts
from forcetune.show.services import jobs, service
from forcetune.show.studies import comparison, cost, findings, masks, network, study

__all__ = [
    "comparison",
    "console",
    "controls",
    "cost",
    "costs",
    "dense",
    "effects",
    "findings",
    "follow",
    "front",
    "importance",
    "jobs",
    "masks",
    "network",
    "night",
    "plan_of_comparisons",
    "present",
    "schedule",
    "service",
    "shares",
    "study",
    "verdicts",
]
