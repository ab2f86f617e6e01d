"""The files in cluster/: they are valid against the schemas that exist, name existing commands, and hold no secret."""

import copy
import json
import re
import shlex
import subprocess
from importlib import resources
from pathlib import Path

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from shared_constants import REPOSITORY

from forcetune import __version__
from forcetune.cli import main
from forcetune.study import load_nightly, load_study

CLUSTER_FILES = sorted(path for path in (REPOSITORY / "cluster").rglob("*") if path.is_file())
DOCKERFILE = (REPOSITORY / "cluster" / "Dockerfile").read_text()
KUBERNETES_VERSION = "1.37"
RAY_KINDS = ("RayCluster", "RayJob")  # no package ships the schemas of these kinds

# A command stands at the start of a line, of a value or of text in backticks, and variables may be set before it.
COMMAND_PATTERN = re.compile(r"(?:^|`|;|&&)(?:[\s#-]|[a-z]+: |[A-Z_]+=\S+ )*forcetune +([a-z][^`;&|#]*)")
SECRET_NAME_PATTERN = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|_KEY$")
SECRET_PATTERN = re.compile(
    r"""://[^\s/:@]*:[^\s/@]+@"""  # user:password@
    r"""|(?:password|passwd|token|secret)=["']?[^\s"'$~/]"""
    r"""|(?:password|passwd|token|secret)["']?: +(?!true\b|false\b)["']?[^\s"'$~/{\[]"""
    r"""|\b[0-9a-f]{24,}\b"""
    r"""|-----BEGIN""",
    re.IGNORECASE,
)

every_file = pytest.mark.parametrize("path", CLUSTER_FILES, ids=lambda path: path.name)


def load_documents(name):
    return list(yaml.safe_load_all((REPOSITORY / "cluster" / name).read_text()))


def find_commands(text):
    """Return the arguments of each forcetune command in a text, comments included."""
    lines = re.sub(r"\\\n[\s#]*", "", text).splitlines()
    return [shlex.split(arguments) for line in lines for arguments in COMMAND_PATTERN.findall(line)]


def parse_command(arguments):
    """Return the parameters of a forcetune command, or raise click's UsageError as the command would."""
    name, command, remaining = main.resolve_command(click.Context(main), list(arguments))
    return command.make_context(name, remaining).params


def find_study_files(arguments):
    if arguments[0] in ("nightly", "schedule"):
        return []
    return [value for value in parse_command(arguments).values() if str(value).endswith(".yaml")]


def misspell_key(document, *keys):
    """Return a copy of a document in which the last key of a path of keys has an additional letter."""
    changed = copy.deepcopy(document)
    section = changed
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1] + "x"] = section.pop(keys[-1])
    return changed


ALL_COMMANDS = [command for path in CLUSTER_FILES for command in find_commands(path.read_text())]


@pytest.mark.parametrize(
    "path", [path for path in CLUSTER_FILES if path.parent.name != "timers"], ids=lambda path: path.name
)
def test_a_header_says_how_far_the_file_was_run(path):
    """Check all but the templates, whose header is that of the file which `forcetune schedule` makes."""
    header = re.match(r"(?:#.*\n)+", path.read_text())[0]
    assert 2 <= header.count("\n") <= 5
    assert re.search(r"[Nn]ot run", header)


def test_the_nightly_file_can_be_used():
    assert load_nightly(REPOSITORY / "cluster" / "nightly.yaml").studies == ["digits"]


def test_every_forcetune_command_is_found():
    assert {command[0] for command in ALL_COMMANDS} == {"submit", "search", "jobs", "resume", "nightly", "schedule"}


@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
def test_the_commands_in_the_files_are_valid(arguments):
    parse_command(arguments)


@pytest.mark.parametrize(
    "text",
    [
        "entrypoint: forcetune serach search_spaces/digits.yaml",
        "#   RAY_AUTH_MODE=token forcetune submit \\\n#     search_spaces/digits.yaml --weit",
        "# `forcetune resume` goes on",
        "  - cd here && forcetune search a.yaml b.yaml",
    ],
)
def test_a_wrong_command_is_noticed(text):
    (arguments,) = find_commands(text)
    with pytest.raises(click.UsageError):
        parse_command(arguments)


def test_the_study_files_are_in_the_repository_and_in_the_image():
    study_files = {file for arguments in ALL_COMMANDS for file in find_study_files(arguments)}
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    assert any(file.startswith("/") for file in study_files)
    for file in study_files:
        path = Path(file).relative_to(folder) if file.startswith("/") else Path(file)
        assert load_study(REPOSITORY / path).trials > 0
        assert f"\nCOPY {path.parent} {path.parent}\n" in DOCKERFILE


def find_install_steps():
    """Return the commands that install forcetune in the image."""
    return re.findall(r"^RUN ((?:pip|uv) .*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_is_installed_as_the_documents_say():
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / "guide" / "cluster.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "uv pip install --system" in block]
    assert find_install_steps() == [line.split(" #")[0].strip() for line in block.splitlines()]


def test_the_launcher_installs_as_the_image_does():
    (config,) = load_documents("ray-cluster.yaml")
    install_commands = [
        line.removeprefix("cd ~/forcetune && ") for line in config["setup_commands"] if line.startswith("cd")
    ]
    assert install_commands == find_install_steps()
    copied_names = re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {f"~/forcetune/{name}" for name in " ".join(copied_names).split()} <= config["file_mounts"].keys()
    for remote, local in config["file_mounts"].items():
        assert local == remote or (REPOSITORY / local).exists(), local


def test_the_image_is_built_without_history_environments_data_and_stores():
    ignored = (REPOSITORY / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".git", "**/.venv*", "data", "**/mlflow.db*", "**/optuna.db*", "**/.forcetune"} <= {*ignored}


@every_file
def test_versions_are_those_that_were_tested_together(path):
    ray_versions = re.findall(r"rayVersion: (\S+)", path.read_text())
    pinned_version = re.search(r"^ray==(\S+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)[1]
    assert {*ray_versions} <= {f'"{pinned_version}"'}
    assert {*re.findall(r"\bforcetune:(\d\S*)", path.read_text())} <= {__version__}


def test_both_versions_are_named_somewhere():
    text = "".join(path.read_text() for path in CLUSTER_FILES)
    assert "rayVersion: " in text
    assert "forcetune:" in text


def load_compose_schema():
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(vendored.read_text())


def test_the_compose_file_is_valid():
    jsonschema.validate(*load_documents("compose.yaml"), load_compose_schema())


@pytest.mark.parametrize(
    "keys", [("secrets",), ("services", "head", "healthcheck"), ("services", "worker", "deploy", "replicas")], ids=str
)
def test_a_misspelled_key_of_the_compose_file_is_noticed(keys):
    (compose,) = load_documents("compose.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(misspell_key(compose, *keys), load_compose_schema())


def test_only_the_dashboard_and_mlflow_are_published_and_on_loopback_alone():
    (compose,) = load_documents("compose.yaml")
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8265:8265", "127.0.0.1:5000:5000"]
    assert not any("network_mode" in service for service in compose["services"].values())


def test_what_a_service_uses_is_defined():
    (compose,) = load_documents("compose.yaml")
    for service in compose["services"].values():
        assert {*service.get("depends_on", {})} <= compose["services"].keys()
        assert {*service.get("secrets", [])} <= compose["secrets"].keys()
        assert {config["source"] for config in service.get("configs", [])} <= compose["configs"].keys()
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= compose["volumes"].keys()


def test_the_ledger_and_mlflow_have_a_schema_each():
    (compose,) = load_documents("compose.yaml")
    schemas = re.findall(r"CREATE SCHEMA (\w+);", compose["configs"]["schemas"]["content"])
    head, mlflow = (compose["services"][name] for name in ("head", "mlflow"))
    addresses = [head["environment"]["FORCETUNE_STORAGE"], *mlflow["command"]]
    assert re.findall(r"options=-csearch_path=(\w+)&passfile=/run/forcetune/pgpass\b", str(addresses)) == schemas


def test_the_passfile_is_one_that_libpq_takes(tmp_path):
    (compose,) = load_documents("compose.yaml")
    script = compose["configs"]["passfile"]["content"].replace("$$", "$")
    script = re.sub(r"/run/(secrets|forcetune)", str(tmp_path), script)
    (tmp_path / "postgres_password").write_text("a:b\\c 'd'\n")
    result = subprocess.run(["sh", "-c", script, "sh", "echo", "a b"], capture_output=True, text=True, check=True)
    assert result.stdout == "a b\n"
    assert (tmp_path / "pgpass").read_text() == "*:*:*:forcetune:a\\:b\\\\c 'd'\n"
    assert (tmp_path / "pgpass").stat().st_mode & 0o777 == 0o600


def check_launcher_config(config):
    """Check a file of the launcher as `ray up` does before it connects."""
    validate_config(prepare_config(config))


def test_the_launchers_file_is_valid():
    check_launcher_config(*load_documents("ray-cluster.yaml"))


@pytest.mark.parametrize("key", ["cluster_name", "setup_commands", "head_start_ray_commands"])
def test_a_misspelled_key_of_the_launchers_file_is_noticed(key):
    (config,) = load_documents("ray-cluster.yaml")
    with pytest.raises(jsonschema.ValidationError):
        check_launcher_config(misspell_key(config, key))


def test_a_machine_missing_in_the_launchers_file_is_noticed():
    (config,) = load_documents("ray-cluster.yaml")
    with pytest.raises(click.ClickException):
        check_launcher_config(misspell_key(config, "provider", "head_ip"))


KUBERAY_DOCUMENTS = [
    document
    for path in CLUSTER_FILES
    if path.parent.name == "kuberay"
    for document in load_documents(f"kuberay/{path.name}")
]


def find_templates(node):
    """Return the pod templates in a document for Ray's operator."""
    if isinstance(node, list):
        return [pod for item in node for pod in find_templates(item)]
    if not isinstance(node, dict):
        return []
    pod_templates = [value for key, value in node.items() if key in ("template", "submitterPodTemplate")]
    return pod_templates + [pod for value in node.values() for pod in find_templates(value)]


def make_pod(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}


def check_kubernetes_document(document):
    """Raise kubernetes_validate's ValidationError if Kubernetes does not know a key or a value."""
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


PLAIN_DOCUMENTS = [document for document in KUBERAY_DOCUMENTS if document["kind"] not in RAY_KINDS]
PODS = [
    make_pod(template)
    for document in KUBERAY_DOCUMENTS
    for template in find_templates(document)
    if document["kind"] in RAY_KINDS
]


def test_every_kuberay_document_and_pod_is_found():
    kinds = {document["kind"] for document in KUBERAY_DOCUMENTS}
    assert kinds == {"PersistentVolumeClaim", "NetworkPolicy", *RAY_KINDS}
    names = [pod["spec"]["containers"][0]["name"] for pod in PODS]
    assert sorted(names) == [name for name in ("ray-head", "ray-job-submitter", "ray-worker") for _ in range(2)]


@pytest.mark.parametrize("document", [*PLAIN_DOCUMENTS, *PODS], ids=lambda document: document["kind"])
def test_documents_and_pods_are_valid_for_kubernetes(document):
    check_kubernetes_document(document)


@pytest.mark.parametrize("document", PLAIN_DOCUMENTS, ids=lambda document: document["metadata"]["name"])
def test_a_misspelled_key_of_a_document_is_noticed(document):
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes_document(misspell_key(document, "spec"))
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes_document(misspell_key(document, "spec", next(iter(document["spec"]))))


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["spec"]["containers"][0]["name"])
@pytest.mark.parametrize("key", ["image", "env", "securityContext", "volumeMounts"])
def test_a_misspelled_key_of_a_container_is_noticed(pod, key):
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes_document(misspell_key(pod, "spec", "containers", 0, key))


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kinds_without_a_schema_are_named_in_a_comment(kind):
    texts = [text for path in CLUSTER_FILES if f"kind: {kind}\n" in (text := path.read_text())]
    assert texts
    assert all(f"the rest of {kind} is unvalidated" in text.replace("\n# ", " ") for text in texts)


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["spec"]["containers"][0]["name"])
def test_pods_have_no_privileges_and_no_more_than_their_share(pod):
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        security = container["securityContext"]
        assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        for amounts in ("requests", "limits"):
            assert container["resources"][amounts].keys() >= {"cpu", "memory"}


def test_the_network_is_closed_and_the_dashboard_open_to_clients_alone():
    policies = {
        document["metadata"]["name"]: document["spec"]
        for document in KUBERAY_DOCUMENTS
        if document["kind"] == "NetworkPolicy"
    }
    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["ray-head"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8265]
    client, operator = rule["from"]
    assert client == {"podSelector": {"matchLabels": {"forcetune.io/client": "true"}}}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    submitters = [pod for pod in PODS if pod["spec"]["containers"][0]["name"] == "ray-job-submitter"]
    assert submitters
    assert all(pod["metadata"]["labels"] == client["podSelector"]["matchLabels"] for pod in submitters)


def test_kueue_can_take_the_queued_job_away():
    (queued,) = [document for document in KUBERAY_DOCUMENTS if "labels" in document["metadata"]]
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "forcetune"}
    spec = queued["spec"]
    assert (spec["suspend"], spec["shutdownAfterJobFinishes"]) == (True, True)
    assert "clusterSelector" not in spec
    assert all(group["minReplicas"] == group["maxReplicas"] for group in spec["rayClusterSpec"]["workerGroupSpecs"])


def test_a_worker_gives_notice_within_its_grace():
    """Check the hook that lets Ray drain the node before the pod ends, with the grace of the pod."""
    (document,) = load_ray_clusters()
    (group,) = document["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    *_, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    options = dict(re.findall(r"--([a-z-]+)[ =]([\w-]+)", script))
    assert options["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    deadline_s, wait_s = int(options["deadline-remaining-seconds"]), int(re.search(r"sleep (\d+)", script)[1])
    assert wait_s <= deadline_s < pod["terminationGracePeriodSeconds"]


def load_ray_clusters():
    return [document for document in KUBERAY_DOCUMENTS if document["kind"] == "RayCluster"]


@every_file
def test_no_file_has_a_secret_in_it(path):
    assert SECRET_PATTERN.findall(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://forcetune:hunter2@postgres/forcetune",
        "postgresql://forcetune@postgres/forcetune?password=hunter2",
        "POSTGRES_PASSWORD: hunter2",
        'auth_token: "hunter2"',
        "export RAY_AUTH_TOKEN='hunter2'",
        "stringData: {ours: 0123456789abcdef0123456789abcdef}",
    ],
)
def test_a_secret_is_noticed(text):
    assert SECRET_PATTERN.search(text)


def list_variables():
    """Yield the name and the value of each environment variable of the containers."""
    (compose,) = load_documents("compose.yaml")
    for service in compose["services"].values():
        yield from service.get("environment", {}).items()
    for pod in PODS:
        for container in pod["spec"]["containers"]:
            yield from ((variable["name"], variable.get("value")) for variable in container["env"])


def test_variables_name_secrets_by_their_path():
    secret_variables = {(name, value) for name, value in list_variables() if SECRET_NAME_PATTERN.search(name)}
    assert {name for name, _ in secret_variables} == {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "POSTGRES_PASSWORD_FILE"}
    for name, value in secret_variables:
        assert value.startswith("/run/secrets/") if name.endswith(("_PATH", "_FILE")) else value == "", name
