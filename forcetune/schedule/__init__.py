"""What starts `forcetune nightly`: a line of the crontab, a pair of systemd's units, or a CronJob of Kubernetes."""

from forcetune.schedule.cronjob import kubernetes
from forcetune.schedule.crontab import cron, install, installed, uninstall
from forcetune.schedule.night import Night, next_night, plan
from forcetune.schedule.units import systemd

__all__ = ["Night", "cron", "install", "installed", "kubernetes", "next_night", "plan", "systemd", "uninstall"]
