"""What cluster/ holds is valid as far as schemas go, names our own commands rightly, and has no secret in it."""

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

from forcetune import __version__
from forcetune.cli import main
from forcetune.study import load_nightly, load_study

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "cluster").rglob("*") if path.is_file())
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()
KUBERNETES = "1.37"
RAY_KINDS = ("RayCluster", "RayJob")  # no package ships their schemas

# where a line, a value or something in backticks begins, behind variables that are set for it
COMMAND = re.compile(r"(?:^|`|;|&&)(?:[\s#-]|[a-z]+: |[A-Z_]+=\S+ )*forcetune +([a-z][^`;&|#]*)")
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|_KEY$")
SECRET = re.compile(
    r"""://[^\s/:@]*:[^\s/@]+@"""  # user:password@
    r"""|(?:password|passwd|token|secret)=["']?[^\s"'$~/]"""
    r"""|(?:password|passwd|token|secret)["']?: +(?!true\b|false\b)["']?[^\s"'$~/{\[]"""
    r"""|\b[0-9a-f]{24,}\b"""
    r"""|-----BEGIN""",
    re.IGNORECASE,
)

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def documents(name):
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text()))


def commands(text):
    """The arguments of each forcetune command in a file, in its comments too."""
    lines = re.sub(r"\\\n[\s#]*", "", text).splitlines()
    return [shlex.split(found) for line in lines for found in COMMAND.findall(line)]


def parsed(arguments):
    """The parameters of one of our commands; raises click's UsageError where the command itself would."""
    name, command, rest = main.resolve_command(click.Context(main), list(arguments))
    return command.make_context(name, rest).params


def study_files(arguments):
    if arguments[0] in ("nightly", "schedule"):
        return []
    return [value for value in parsed(arguments).values() if str(value).endswith(".yaml")]


def misspelled(found, *keys):
    """A copy in which the last of the keys, each below the one before, has a letter too many."""
    whole = copy.deepcopy(found)
    place = whole
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1] + "x"] = place.pop(keys[-1])
    return whole


ALL_COMMANDS = [command for path in FILES for command in commands(path.read_text())]


@every_file
def test_a_header_says_how_far_the_file_was_run(path):
    header = re.match(r"(?:#.*\n)+", path.read_text())[0]
    assert 2 <= header.count("\n") <= 5
    assert re.search(r"[Nn]ot run", header)


def test_the_nightly_file_can_be_used():
    assert load_nightly(ROOT / "cluster" / "nightly.yaml").studies == ["digits"]


def test_no_command_of_ours_is_overlooked():
    assert {command[0] for command in ALL_COMMANDS} == {"submit", "search", "jobs", "resume", "nightly", "schedule"}


@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
def test_our_commands_are_commands_of_ours(arguments):
    parsed(arguments)


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
    (arguments,) = commands(text)
    with pytest.raises(click.UsageError):
        parsed(arguments)


def test_the_study_files_are_in_the_repository_and_in_the_image():
    named = {file for arguments in ALL_COMMANDS for file in study_files(arguments)}
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    assert any(file.startswith("/") for file in named)
    for file in named:
        path = Path(file).relative_to(folder) if file.startswith("/") else Path(file)
        assert load_study(ROOT / path).trials > 0
        assert f"\nCOPY {path.parent} {path.parent}\n" in DOCKERFILE


def install_steps():
    """Of the image."""
    return re.findall(r"^RUN ((?:pip|uv) .*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_is_installed_as_the_readme_says():
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "uv pip install --system" in block]
    assert install_steps() == [line.split(" #")[0].strip() for line in block.splitlines()]


def test_the_launcher_installs_as_the_image_does():
    (config,) = documents("ray-cluster.yaml")
    installing = [line.removeprefix("cd ~/forcetune && ") for line in config["setup_commands"] if line.startswith("cd")]
    assert installing == install_steps()
    copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {f"~/forcetune/{name}" for name in " ".join(copied).split()} <= config["file_mounts"].keys()
    for remote, local in config["file_mounts"].items():
        assert local == remote or (ROOT / local).exists(), local


def test_the_image_is_built_without_history_environments_data_and_stores():
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".git", "**/.venv*", "data", "**/mlflow.db*", "**/optuna.db*", "**/.forcetune"} <= {*ignored}


@every_file
def test_versions_are_those_that_were_tested_together(path):
    ray = re.findall(r"rayVersion: (\S+)", path.read_text())
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]
    assert {*ray} <= {f'"{pinned}"'}
    assert {*re.findall(r"\bforcetune:(\d\S*)", path.read_text())} <= {__version__}


def compose_schema():
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(vendored.read_text())


def test_the_compose_file_is_valid():
    jsonschema.validate(*documents("compose.yaml"), compose_schema())


@pytest.mark.parametrize(
    "keys", [("secrets",), ("services", "head", "healthcheck"), ("services", "worker", "deploy", "replicas")], ids=str
)
def test_a_misspelled_key_of_the_compose_file_is_noticed(keys):
    (found,) = documents("compose.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(misspelled(found, *keys), compose_schema())


def test_only_the_dashboard_and_mlflow_are_published_and_on_loopback_alone():
    (found,) = documents("compose.yaml")
    published = [port for service in found["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8265:8265", "127.0.0.1:5000:5000"]
    assert not any("network_mode" in service for service in found["services"].values())


def test_what_a_service_uses_is_defined():
    (found,) = documents("compose.yaml")
    for service in found["services"].values():
        assert {*service.get("depends_on", {})} <= found["services"].keys()
        assert {*service.get("secrets", [])} <= found["secrets"].keys()
        assert {config["source"] for config in service.get("configs", [])} <= found["configs"].keys()
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= found["volumes"].keys()


def test_the_ledger_and_mlflow_have_a_schema_each():
    (found,) = documents("compose.yaml")
    made = re.findall(r"CREATE SCHEMA (\w+);", found["configs"]["schemas"]["content"])
    head, mlflow = (found["services"][name] for name in ("head", "mlflow"))
    addresses = [head["environment"]["FORCETUNE_STORAGE"], *mlflow["command"]]
    assert re.findall(r"options=-csearch_path=(\w+)&passfile=/run/forcetune/pgpass\b", str(addresses)) == made


def test_the_passfile_is_one_that_libpq_takes(tmp_path):
    (found,) = documents("compose.yaml")
    script = found["configs"]["passfile"]["content"].replace("$$", "$")
    script = re.sub(r"/run/(secrets|forcetune)", str(tmp_path), script)
    (tmp_path / "postgres_password").write_text("a:b\\c 'd'\n")
    done = subprocess.run(["sh", "-c", script, "sh", "echo", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b\n"
    assert (tmp_path / "pgpass").read_text() == "*:*:*:forcetune:a\\:b\\\\c 'd'\n"
    assert (tmp_path / "pgpass").stat().st_mode & 0o777 == 0o600


def launchable(config):
    """What `ray up` checks before it connects."""
    validate_config(prepare_config(config))


def test_the_launchers_file_is_valid():
    launchable(*documents("ray-cluster.yaml"))


@pytest.mark.parametrize("key", ["cluster_name", "setup_commands", "head_start_ray_commands"])
def test_a_misspelled_key_of_the_launchers_file_is_noticed(key):
    (config,) = documents("ray-cluster.yaml")
    with pytest.raises(jsonschema.ValidationError):
        launchable(misspelled(config, key))


def test_a_machine_missing_in_the_launchers_file_is_noticed():
    (config,) = documents("ray-cluster.yaml")
    with pytest.raises(click.ClickException):
        launchable(misspelled(config, "provider", "head_ip"))


KUBERAY = [found for path in FILES if path.parent.name == "kuberay" for found in documents(f"kuberay/{path.name}")]


def templates(found):
    """The pod templates of what Ray's operator reads."""
    if isinstance(found, list):
        return [pod for each in found for pod in templates(each)]
    if not isinstance(found, dict):
        return []
    own = [value for key, value in found.items() if key in ("template", "submitterPodTemplate")]
    return own + [pod for value in found.values() for pod in templates(value)]


def as_pod(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}


def check(found):
    """Raises kubernetes_validate's ValidationError for what Kubernetes does not know."""
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


PLAIN = [found for found in KUBERAY if found["kind"] not in RAY_KINDS]
PODS = [as_pod(template) for found in KUBERAY for template in templates(found) if found["kind"] in RAY_KINDS]


def test_nothing_of_kuberay_is_overlooked():
    kinds = {found["kind"] for found in KUBERAY}
    assert kinds == {"PersistentVolumeClaim", "NetworkPolicy", *RAY_KINDS}
    names = [pod["spec"]["containers"][0]["name"] for pod in PODS]
    assert sorted(names) == ["ray-head", "ray-job-submitter", "ray-worker"]


@pytest.mark.parametrize("found", [*PLAIN, *PODS], ids=lambda found: found["kind"])
def test_what_kubernetes_knows_is_valid(found):
    check(found)


@pytest.mark.parametrize("found", PLAIN, ids=lambda found: found["metadata"]["name"])
def test_a_misspelled_key_of_a_document_is_noticed(found):
    with pytest.raises(kubernetes_validate.ValidationError):
        check(misspelled(found, "spec"))
    with pytest.raises(kubernetes_validate.ValidationError):
        check(misspelled(found, "spec", next(iter(found["spec"]))))


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["spec"]["containers"][0]["name"])
@pytest.mark.parametrize("key", ["image", "env", "securityContext", "volumeMounts"])
def test_a_misspelled_key_of_a_container_is_noticed(pod, key):
    with pytest.raises(kubernetes_validate.ValidationError):
        check(misspelled(pod, "spec", "containers", 0, key))


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_what_is_unvalidated_is_said_to_be(kind):
    (path,) = [path for path in FILES if f"kind: {kind}\n" in path.read_text()]
    assert f"the rest of {kind} is unvalidated" in path.read_text().replace("\n# ", " ")


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
    policies = {found["metadata"]["name"]: found["spec"] for found in KUBERAY if found["kind"] == "NetworkPolicy"}
    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["ray-head"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8265]
    client, operator = rule["from"]
    assert client == {"podSelector": {"matchLabels": {"forcetune.io/client": "true"}}}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    (submitter,) = [pod for pod in PODS if pod["spec"]["containers"][0]["name"] == "ray-job-submitter"]
    assert submitter["metadata"]["labels"] == client["podSelector"]["matchLabels"]


@every_file
def test_no_file_has_a_secret_in_it(path):
    assert SECRET.findall(path.read_text()) == []


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
def test_a_secret_would_be_noticed(text):
    assert SECRET.search(text)


def environments():
    """Name and value of each variable that a container is given."""
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        yield from service.get("environment", {}).items()
    for pod in PODS:
        for container in pod["spec"]["containers"]:
            yield from ((one["name"], one.get("value")) for one in container["env"])


def test_variables_name_secrets_by_their_path():
    found = {(name, value) for name, value in environments() if SECRET_NAME.search(name)}
    assert {name for name, _ in found} == {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "POSTGRES_PASSWORD_FILE"}
    for name, value in found:
        assert value.startswith("/run/secrets/") if name.endswith(("_PATH", "_FILE")) else value == "", name
