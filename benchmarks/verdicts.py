"""The rates at which verdicts are wrong, and at which they are reached, by simulation.

    python benchmarks/verdicts.py                                # every table: minutes on one core
    python benchmarks/verdicts.py --part pairs --repetitions 200 # a small one

docs/explanation/verdicts.md shows the tables. Each has a module in benchmarks/deciding.
"""

from importlib import import_module

import click
import pandas as pd

TABLES = ("pairs", "nights", "seeds")


@click.command()
@click.option("--part", "selected", type=click.Choice([*TABLES, "all"]), default="all", help="the table to print")
@click.option("--repetitions", type=click.IntRange(1), default=2000, help="simulations of each row")
@click.option("--seed", type=int, default=0, help="seed of all simulations")
def main(selected: str, repetitions: int, seed: int) -> None:
    """Simulate verdicts and print how often they are wrong."""
    for name in TABLES if selected == "all" else (selected,):
        rows = import_module(f"deciding.{name}").rows(repetitions, seed)
        click.echo(f"\n{name}: {repetitions} simulations of each row, seed {seed}\n\n{format_table(rows)}")


def format_table(rows: pd.DataFrame) -> str:
    """Return a table in Markdown; columns of numbers that are no counts are shares, shown in percent."""
    shares = [name for name in map(str, rows) if pd.api.types.is_float_dtype(rows[name])]
    shown = rows.assign(**{name: rows[name].map(_format_share) for name in shares}).astype(str)
    lines = [
        [*rows.columns],
        ["---:" if name in shares else "---" for name in rows.columns],
        *shown.to_numpy().tolist(),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_share(share: float) -> str:
    return "" if pd.isna(share) else f"{share:.1%}"


if __name__ == "__main__":
    main()
