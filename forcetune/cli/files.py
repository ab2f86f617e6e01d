"""The commands that write a study file to start from, and the JSON schema of study files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from forcetune.cli.group import main
from forcetune.errors import InputError

DEFAULT_SEARCH_SPACE = "digits"


class InitCommand(click.Command):
    """A click command whose help lists the shipped search spaces."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the shipped study files below the options."""
        from forcetune.study import list_search_spaces

        with formatter.section("Names"):
            formatter.write_dl([*list_search_spaces().items()])


@main.command("init", cls=InitCommand)
@click.argument("name", default=DEFAULT_SEARCH_SPACE)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="the study file to write (default: NAME.yaml)"
)
def init_command(name: str, out: Path | None) -> None:
    """Write a study file to start from: a copy of the search space NAME (default: digits), with comments.

    The JSON schema of study files is written beside it, where there is none yet: editors that know
    yaml-language-server complete and check the study file by it. No file is overwritten.
    """
    from forcetune.study import SCHEMA_FILE, read_search_space, read_shipped_schema

    text = read_search_space(name)
    path = out or Path(f"{name}.yaml")
    try:
        _write_new(path, text)
    except FileExistsError:
        raise InputError(
            f"{path} exists already, and is not overwritten; --out FILE writes the study to another file"
        ) from None
    schema_path = path.with_name(SCHEMA_FILE)
    try:
        _write_new(schema_path, read_shipped_schema())
    except FileExistsError:
        pass
    else:
        click.echo(f"wrote {schema_path}, by which editors complete and check study files")
    click.echo(f"wrote {path}; `forcetune check {path}` prints what it would run, `forcetune search {path}` runs it")


@main.command("schema")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="write the schema to this file instead")
def schema_command(out: Path | None) -> None:
    """Print the JSON schema of a study file, by which editors and other programs complete and check it."""
    from forcetune.study import make_schema

    text = json.dumps(make_schema(), indent=2, ensure_ascii=False)
    if out is None:
        click.echo(text)
        return
    try:
        out.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {out}")


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet.

    Raises:
        FileExistsError: The file exists.
        InputError: The file cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
