"""The comparison of champions with random pruning: twins with fresh seeds, and verdicts on the differences."""

from forcetune.analysis import DEFAULT_COLLAPSE_MARGIN
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.comparing import DEFAULT_MARGIN_POINTS, DEFAULT_SEEDS, RIVALS, Plan, check, conclude, plan, run
from forcetune.baseline.dense import plan_dense_runs
from forcetune.baseline.findings import Findings
from forcetune.baseline.nightly import Nights, Share, load_last_nights
from forcetune.baseline.sending import make_sender

__all__ = [
    "DEFAULT_COLLAPSE_MARGIN",
    "DEFAULT_MARGIN_POINTS",
    "DEFAULT_SEEDS",
    "RIVALS",
    "ChampionStudy",
    "Findings",
    "Nights",
    "Plan",
    "Share",
    "check",
    "conclude",
    "load_last_nights",
    "make_sender",
    "plan",
    "plan_dense_runs",
    "run",
]
