"""The output of the commands: tables and sentences on the terminal."""

from forcetune.cli.terminal.effects import effects, importance
from forcetune.cli.terminal.exports import export
from forcetune.cli.terminal.fronts import controls, costs, dense, follow, front, prediction
from forcetune.cli.terminal.layout import console
from forcetune.cli.terminal.networks import report_retrained, show_epoch
from forcetune.cli.terminal.nights import describe_plan, night, schedule, shares, verdicts
from forcetune.cli.terminal.services import jobs, service
from forcetune.cli.terminal.studies import cost, findings, masks, network, study

__all__ = [
    "console",
    "controls",
    "cost",
    "costs",
    "dense",
    "describe_plan",
    "effects",
    "export",
    "findings",
    "follow",
    "front",
    "importance",
    "jobs",
    "masks",
    "network",
    "night",
    "prediction",
    "report_retrained",
    "schedule",
    "service",
    "shares",
    "show_epoch",
    "study",
    "verdicts",
]
