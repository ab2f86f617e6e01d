"""The files of running trials in an object store with the protocol of S3, which loses, delays and repeats requests."""

import subprocess
import sys
import urllib.request

import boto3
import pytest
from processes import wait_until
from proxy import Proxy

pytestmark = pytest.mark.long

FAULT_SHARE = 0.1  # of the requests to the object store
SERVER_PORT, PROXY_PORT = 5003, 5004
BUCKET = "forcetune"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(network, environment, monkeypatch):
    """Start a server with the protocol of S3, and return a bucket in it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    address = f"http://127.0.0.1:{SERVER_PORT}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(SERVER_PORT)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers():
        try:
            return urllib.request.urlopen(f"{address}/moto-api/", timeout=1).status == 200
        except OSError:
            return False

    wait_until(answers, "the server of the object store")
    yield boto3.resource("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    server.kill()
    server.wait()


def test_checkpoints_survive_kills_and_failing_requests(search, bucket, request):
    proxy = Proxy(f"http://127.0.0.1:{SERVER_PORT}", 0.0, "0", PROXY_PORT, disturbed_path="/")
    request.addfinalizer(proxy.close)
    variables = {"FORCETUNE_STATE": f"s3://{BUCKET}/studies", "AWS_ENDPOINT_URL": proxy.address, **CREDENTIALS}
    study = search(variables, pause=0.05, trial={"epochs": 12}, resources={"retries": 1000})
    proxy.share = FAULT_SHARE
    for _ in range(2):
        driver = study.start()
        study.wait_for_training()
        assert any(object.key.endswith("checkpoint.pt") for object in bucket.objects.all())
        driver.kill()
    study.hurry()
    last = study.start()
    assert last.wait(300) == 0, last.output
    assert set(study.check_promise()["outcome"]) == {"trained"}
    assert study.find_attempts() > {"1"}, "later attempts went on"
    proxy.settle()
    print("\n" + "\n".join(f"{count:6} {name}" for name, count in sorted(proxy.counts.items())))
    assert sum(proxy.counts[fault] for fault in Proxy.FAULTS) > 0
    again = study.start()  # a request that arrived late may have written a file again
    assert again.wait() == 0, again.output
    assert [object.key for object in bucket.objects.all()] == []


def test_an_object_store_that_is_away_refuses_the_study(search, network):
    variables = {"FORCETUNE_STATE": f"s3://{BUCKET}/studies", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", **CREDENTIALS}
    study = search(variables)
    refused = study.start()
    assert refused.wait() == 2
    assert "FORCETUNE_STATE=s3://" in refused.output
    assert "Traceback" not in refused.output
    assert not (study.folder / "optuna.db").exists(), "nothing was written"
