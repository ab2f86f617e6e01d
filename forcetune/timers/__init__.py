"""Timers that start `forcetune nightly`: a crontab line, two units of systemd, or a CronJob of Kubernetes."""

from forcetune.timers.cronjob import kubernetes
from forcetune.timers.crontab import cron, install, installed, uninstall
from forcetune.timers.night import Night, next_night, plan
from forcetune.timers.units import systemd

__all__ = ["Night", "cron", "install", "installed", "kubernetes", "next_night", "plan", "systemd", "uninstall"]
