"""Tables of the effects of fields on accuracy, and of the importance of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forcetune.cli.terminal.layout import console
from forcetune.report.tables import Table, drop_missing
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    import pandas as pd


def effects(differences: pd.DataFrame) -> None:
    """Print how much the values of a field differ in accuracy at equal density.

    Args:
        differences: One row for two values of a field, as `analysis.effects` returns them.
    """
    out = console()
    if differences.empty:
        print_line(out, "there are too few trials to compare their accuracy at equal density")
        return
    header = "field", "better", "worse", "by points", "95 % interval", "p", "trials", "pairs", "paired by"
    rows = []
    for row in map(drop_missing, differences.to_dict("records")):
        interval = f"[{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else "-"
        p = f"{row['p']:.2g}" if "p" in row else "-"
        numbers = f"{row['difference']:+.2f}", interval, p, str(row["trials"]), str(row["pairs"] or "-")
        rows.append([row["field"], row["better"], row["worse"], *numbers, row["paired"]])
    out.print(Table(header, rows, {"field", "better", "worse", "paired by"}).to_terminal())
    print_line(
        out,
        "by points: difference in points of validation accuracy at equal density, without early-stopped trials. paired "
        "by: `all else equal` pairs trials that share every other field and the seed, as in a grid; `like density` "
        "pairs means over the trials of one network and method within a quarter of a decade of density, and other "
        "fields vary by chance; `not` compares all trials, each minus the usual accuracy at its density, network and "
        "method. p: of no difference, exact for pairs, otherwise by Welch's test, with Holm's correction over the rows "
        "of a field",
    )


def importance(shares: pd.DataFrame) -> None:
    """Print the importance of each field for each target, in percent.

    Args:
        shares: One row for each field and one column for each target, from 0 to 1, as `search.importance.importance`
            returns them.
    """
    rows = [[str(name), *(f"{share:.1%}" for share in row)] for name, row in shares.iterrows()]
    out = console()
    out.print(Table(["field", *shares.columns], rows, {"field"}).to_terminal())
    print_line(
        out,
        "shares of 100 %: how much the distribution of a field among the best tenth of the trials differs from that "
        "among all trials (PED-ANOVA); they do not say which values are better, `--effect FIELD` does",
    )
