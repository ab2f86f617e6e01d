"""Addresses of the stores."""

import pytest
import sqlalchemy

from forcetune.errors import InputError
from forcetune.execution import environment
from forcetune.stores import (
    enable_write_ahead_log,
    has_password,
    hide_password,
    mlflow_uri,
    optuna_uri,
    ray_address,
    split_password,
)


@pytest.mark.parametrize(
    ("uri", "has_secret"),
    [
        ("postgresql://me@host/db?passfile=/run/secrets/pgpass", False),
        ("postgresql://host/db", False),
        ("http://mlflow:5000", False),
        ("sqlite:////tmp/a:b@c/optuna.db", False),
        ("postgresql://me:secret@host/db", True),
        ("postgresql://:secret@host/db", True),
        ("postgresql://me@host/db?password=secret", True),
        ("https://me:secret@mlflow", True),
        ("http://mlflow:5000/#/experiments/a@b", False),
        ("postgresql://me:secret/secret@host/db", True),
        ("postgresql://me@corp:secret@host/db", True),
        ("postgresql://me:secret secret@host/db", True),
        ("postgresql://me@[::1]:5432/db?passfile=/run/secrets/pgpass", False),
        ("started with --database postgresql://me:secret@host/db in 1 s", True),
    ],
)
def test_an_address_with_a_password_is_recognized(uri, has_secret):
    assert has_password(uri) is has_secret
    assert not has_secret or "secret" not in hide_password(uri)


@pytest.mark.parametrize("address", ["mlruns", "./mlruns", "mlflow.db", "file:///tmp/mlruns", "file:mlruns"])
def test_mlflows_folders_of_files_are_refused(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI=\S+: .* allowed: sqlite:///FILE.* http://"):
        mlflow_uri()


@pytest.mark.parametrize("address", ["optuna.db", "journal.log", "redis://host", "mysql://me:secret@host/db"])
def test_optunas_other_storages_are_refused(monkeypatch, address):
    monkeypatch.setenv("FORCETUNE_STORAGE", address)
    with pytest.raises(InputError, match=r"FORCETUNE_STORAGE=\S+: .* allowed: .* postgresql://") as error:
        optuna_uri()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("sign", ["?", "%", "#"])
def test_a_folder_with_a_sign_of_addresses_in_its_name_is_refused(monkeypatch, tmp_path, sign):
    folder = tmp_path / f"a{sign}20b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable, read_address in (("MLFLOW_TRACKING_URI", mlflow_uri), ("FORCETUNE_STORAGE", optuna_uri)):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(InputError, match=f"{variable}: the path .* has a '[{sign}]'"):
            read_address()


def test_a_password_is_moved_to_a_line_of_the_passfile():
    assert split_password("postgresql://me:a%3Ab@host:5433/db") == (
        "postgresql://me@host:5433/db",
        r"host:5433:db:me:a\:b",
    )
    assert split_password("postgresql://me@host/db?password=a%3Ab&sslmode=require") == (
        "postgresql://me@host/db?sslmode=require",
        r"host:*:db:me:a\:b",
    )
    assert split_password("postgresql://me@host/db") == ("postgresql://me@host/db", None)
    assert split_password("postgresql://me:x@host/db")[1] == "host:*:db:me:x"


@pytest.mark.parametrize(
    ("address", "expected"), [("", ""), ("local", ""), (" local ", ""), ("head:6379", "head:6379")]
)
def test_a_local_ray_is_no_cluster(monkeypatch, address, expected):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address() == expected
    assert environment.is_shared() == bool(expected)


def test_only_the_files_of_stores_are_written_ahead(tmp_path):
    enable_write_ahead_log(f"sqlite:///{tmp_path}/store.db")
    modes = {}
    for name in ("store", "other"):
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/{name}.db")
        with engine.connect() as connection:
            modes[name] = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        engine.dispose()
    assert modes == {"store": "wal", "other": "delete"}
