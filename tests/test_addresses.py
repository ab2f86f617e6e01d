"""Addresses of the stores."""

import pytest

from forcetune.search import environment
from forcetune.stores import has_password, password_apart, ray_address, shown


@pytest.mark.parametrize(
    ("uri", "has"),
    [
        ("postgresql://me@host/db?passfile=/run/secrets/pgpass", False),
        ("postgresql://host/db", False),
        ("http://mlflow:5000", False),
        ("sqlite:////tmp/a:b@c/optuna.db", False),
        ("postgresql://me:secret@host/db", True),
        ("postgresql://:secret@host/db", True),
        ("postgresql://me@host/db?password=secret", True),
        ("https://me:secret@mlflow", True),
    ],
)
def test_an_address_with_a_password_is_known(uri, has):
    assert has_password(uri) is has
    assert not has or "secret" not in shown(uri)


def test_a_password_goes_to_a_line_of_its_own():
    assert password_apart("postgresql://me:a%3Ab@host:5433/db") == (
        "postgresql://me@host:5433/db",
        r"host:5433:db:me:a\:b",
    )
    assert password_apart("postgresql://me@host/db") == ("postgresql://me@host/db", None)
    assert password_apart("postgresql://me:x@host/db")[1] == "host:*:db:me:x"


@pytest.mark.parametrize(("address", "named"), [("", ""), ("local", ""), (" local ", ""), ("head:6379", "head:6379")])
def test_a_local_ray_is_no_cluster(monkeypatch, address, named):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address() == named
    assert environment.is_shared() == bool(named)
