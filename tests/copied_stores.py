"""Copies of a folder with stores, whose artifacts are those of the copy."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

ADDRESS_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def copy_stores(folder: Path, target: Path) -> Path:
    """Copy a folder whose stores no process has open, and return the copy."""
    shutil.copytree(folder, target)
    move_artifacts(target, str(folder))
    return target


def move_artifacts(folder: Path, original: str) -> None:
    """Write the folder's name into its mlflow.db, which keeps absolute addresses of artifacts, for the original one."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        for table, column in ADDRESS_COLUMNS:
            connection.execute(f"update {table} set {column} = replace({column}, ?, ?)", (original, str(folder)))
