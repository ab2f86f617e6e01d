"""Nights on Kubernetes, beside the cluster of cluster/kuberay: a ConfigMap with the nightly.yaml, and a CronJob."""

import json
import re
from textwrap import indent
from urllib.parse import urlsplit

from forcetune.errors import InputError
from forcetune.timers.night import Night
from forcetune.timers.template import fill_template

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")  # by these names a pod reaches only itself
CLUSTER_RAY, CLUSTER_MLFLOW = "http://forcetune-head-svc:8265", "http://mlflow:5000"  # of cluster/kuberay


def kubernetes(night: Night, image: str) -> str:
    """Return the YAML of a night with its file, which submits jobs to the cluster.

    The addresses of Ray and MLflow are those of cluster/kuberay, unless the night's variables name another machine.

    Args:
        night: The night that the CronJob starts.
        image: The name of an image that contains forcetune.

    Raises:
        InputError: The image's name is not valid, or the file is not text in UTF-8.
    """
    if not re.fullmatch(r"[\w./:@-]+", image, re.ASCII):
        raise InputError(
            f"--image {image!r}: allowed: the name of an image, such as registry.example.org/forcetune:0.1.0"
        )
    hour, minute = map(int, night.at.split(":"))
    texts = {
        "name": night.name,
        "content": indent(_read_file(night), " " * 4, lambda line: True),
        "minute": minute,
        "hour": hour,
        "image": _quote_yaml(image),
        "file": _quote_yaml(night.file.name),
        "path": _quote_literal(f"/etc/forcetune/{night.file.name}"),
        "ray": _quote_literal(_reachable_address(night, "RAY_ADDRESS", CLUSTER_RAY)),
        "mlflow": _quote_literal(_reachable_address(night, "MLFLOW_TRACKING_URI", CLUSTER_MLFLOW)),
    }
    return fill_template("cronjob.yaml", texts)


def _read_file(night: Night) -> str:
    """Return the text of the night's file, with a line break at its end."""
    try:
        text = night.file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{night.file}: is not text in UTF-8") from None
    return text if text.endswith("\n") or not text else f"{text}\n"


def _reachable_address(night: Night, name: str, default: str) -> str:
    """Return an address that a pod can reach: the night's, or the default one where that names this machine."""
    address = night.variables.get(name, "")
    url = urlsplit(address)
    return address if url.scheme in ("http", "https") and url.hostname not in LOOPBACK_HOSTS else default


def _quote_literal(text: str) -> str:
    """Return a text in quotes in which Kubernetes replaces no $(NAME) by a variable."""
    return _quote_yaml(text.replace("$", "$$"))


def _quote_yaml(text: str) -> str:
    """Return a text in quotes for YAML, which accepts JSON's quotes."""
    return json.dumps(text, ensure_ascii=False)
