"""What it took: effects and importance of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forcetune.show.layout import console, present, ruled

if TYPE_CHECKING:
    import pandas as pd


def effects(found: pd.DataFrame) -> None:
    """How much the values of a field differ at equal density, a row for two values."""
    out = console()
    if found.empty:
        out.print("there are too few trials to compare what they reach at equal density")
        return
    header = "field", "better", "worse", "by points", "95 % interval", "p", "trials", "pairs", "paired by"
    table = ruled(*header, left=3)
    table.columns[-1].justify = "left"
    for row in map(present, found.to_dict("records")):
        interval = f"[{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else "-"
        p = f"{row['p']:.2g}" if "p" in row else "-"
        numbers = f"{row['difference']:+.2f}", interval, p, str(row["trials"]), str(row["pairs"] or "-")
        table.add_row(row["field"], row["better"], row["worse"], *numbers, row["paired"])
    out.print(table)
    out.print(
        "points of validation accuracy at equal density, early-stopped trials left out. all else equal: trials that "
        "share every other field and the seed, as in a grid. like density: means over the trials of a network and a "
        "method within a quarter of a decade, of which other fields vary by chance. not paired: each trial less what "
        "others of its density and method reach. p: of no difference, exact for pairs, else Welch's, by Holm over the "
        "rows of a field",
        soft_wrap=True,
        highlight=False,
    )


def importance(found: pd.DataFrame) -> None:
    """How much each field has to do with each target, in percent."""
    table = ruled("field", *found.columns, left=1)
    for name, row in found.iterrows():
        table.add_row(str(name), *(f"{share:.1%}" for share in row))
    out = console()
    out.print(table)
    out.print(
        "shares of 100 %: how differently a field is spread over the best tenth of the trials and over all of them "
        "(PED-ANOVA); says nothing of the direction, which `--effect FIELD` does",
        soft_wrap=True,
        highlight=False,
    )
