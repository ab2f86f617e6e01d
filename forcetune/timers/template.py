"""Templates of units and of the CronJob: the files of cluster/timers, which wheels ship too."""

from collections.abc import Mapping
from importlib.resources import files
from string import Template


def fill_template(name: str, texts: Mapping[str, object]) -> str:
    """Return the text of a template with each `$placeholder` replaced.

    Args:
        name: The name of a file in cluster/timers.
        texts: The text for each placeholder.
    """
    template = files("forcetune.timers").joinpath("templates", name)  # a link to the folder of the repository
    return Template(template.read_text(encoding="utf-8")).substitute(texts)
