"""Nights on Kubernetes, beside the cluster of cluster/kuberay: a ConfigMap with the nightly.yaml, and a CronJob."""

import json
import re
from string import Template
from textwrap import indent
from urllib.parse import urlsplit

from forcetune.errors import InputError
from forcetune.timers.night import Night

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")  # by these names a pod reaches only itself
CLUSTER_RAY, CLUSTER_MLFLOW = "http://forcetune-head-svc:8265", "http://mlflow:5000"  # of cluster/kuberay
CRONJOB = Template("""\
# Needs the cluster of cluster/kuberay, whose Secret has Ray's token: kubectl apply -f this file
# The address of the ledger is not in this file: the jobs that a night submits get it from the cluster. The program of
# on_alarm has to be in the image, and networkpolicy.yaml has to allow its connections.
apiVersion: v1
kind: ConfigMap
metadata:
  name: $name
  namespace: forcetune
data:
  nightly.yaml: |2+
$content---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: $name
  namespace: forcetune
spec:
  # by the clock of Kubernetes' controller, usually UTC; timeZone: Europe/Berlin sets another time zone
  schedule: "$minute $hour * * *"
  concurrencyPolicy: Forbid
  # seconds by which a night may start late, if Kubernetes was down
  startingDeadlineSeconds: 21600
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      backoffLimit: 3
      podFailurePolicy:
        rules:
          # a lost node does not count as a failure
          - action: Ignore
            onPodConditions: [{type: DisruptionTarget, status: "True"}]
          # refused, alarm, another night still runs: a retry would end in the same way
          - action: FailJob
            onExitCodes: {containerName: nightly, operator: In, values: [2, 3, 4]}
      template:
        metadata:
          labels:
            forcetune.io/client: "true"
        spec:
          # podFailurePolicy works only with this one
          restartPolicy: Never
          automountServiceAccountToken: false
          securityContext:
            runAsNonRoot: true
            runAsUser: 1000
            runAsGroup: 1000
            fsGroup: 1000
            seccompProfile: {type: RuntimeDefault}
          containers:
            - name: nightly
              image: $image
              command: [forcetune, nightly, $path]
              workingDir: /opt/forcetune
              env:
                - {name: RAY_ADDRESS, value: $ray}
                - {name: RAY_AUTH_MODE, value: token}
                - {name: RAY_AUTH_TOKEN_PATH, value: /run/secrets/ray/auth_token}
                - {name: MLFLOW_TRACKING_URI, value: $mlflow}
              securityContext:
                allowPrivilegeEscalation: false
                capabilities: {drop: [ALL]}
              resources:
                requests: {cpu: 500m, memory: 1Gi}
                limits: {cpu: "1", memory: 2Gi}
              volumeMounts:
                - {name: file, mountPath: /etc/forcetune, readOnly: true}
                - {name: token, mountPath: /run/secrets/ray, readOnly: true}
                # for the lock of a night; it cannot write to the rest of the working folder
                - {name: lock, mountPath: /opt/forcetune/.forcetune}
          volumes:
            - name: file
              configMap:
                name: $name
                # under its own name, because the nights in MLflow are named after it
                items: [{key: nightly.yaml, path: $file}]
            - name: token
              secret:
                secretName: forcetune
                defaultMode: 288  # 0440
                items: [{key: auth_token, path: auth_token}]
            - name: lock
              emptyDir: {sizeLimit: 64Mi}
""")


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
    return CRONJOB.substitute(
        name=night.name,
        content=indent(_read_file(night), " " * 4, lambda line: True),
        minute=minute,
        hour=hour,
        image=_quote_yaml(image),
        file=_quote_yaml(night.file.name),
        path=_quote_literal(f"/etc/forcetune/{night.file.name}"),
        ray=_quote_literal(_reachable_address(night, "RAY_ADDRESS", CLUSTER_RAY)),
        mlflow=_quote_literal(_reachable_address(night, "MLFLOW_TRACKING_URI", CLUSTER_MLFLOW)),
    )


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
