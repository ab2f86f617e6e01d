"""Timers that start `forcetune nightly`: a crontab line, two units of systemd, or a CronJob of Kubernetes."""

from forcetune.schedule.cronjob import kubernetes
from forcetune.schedule.crontab import cron, install, installed, uninstall
from forcetune.schedule.night import Night, next_night, plan
from forcetune.schedule.units import systemd

__all__ = ["Night", "cron", "install", "installed", "kubernetes", "next_night", "plan", "systemd", "uninstall"]
