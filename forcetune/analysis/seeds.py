"""How far a front may be believed: what fresh seeds say of its points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import LOGARITHMIC, non_dominated, on_axes

CONFIDENCE = 0.95
NEAR = 0.25  # decades of density within which points share most of their noise
FAR = 1e-3  # the weight of all others, so that noise is known everywhere once it is known anywhere
DRAWS = 1000
REACH = 4.0  # standard errors beyond which nobody expects a mean


@dataclass(frozen=True)
class Belief:
    """What is believed of n points in m objectives.

    seeds (n,): fresh seeds behind each; mean (n, m): over those, the one value that is there where there are none;
    low, high (n, m): Student's 95 % interval of the mean; probability (n,): of standing on the front. Intervals and
    probabilities are NaN while no point has two fresh seeds.
    """

    seeds: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray


def believe(
    values: np.ndarray, densities: np.ndarray, fresh: Sequence[np.ndarray], directions: Mapping[str, str]
) -> Belief:
    """Weigh points by their fresh seeds; the value that a point was chosen for is left out where it has any.

    values: (n, m), from the search; densities: (n,); fresh: for each point (seeds, m), perhaps none.
    A seed's noise is pooled over the points near in log10 density, since five seeds of one point say little of it;
    objectives that count by their logarithm are averaged so.
    """
    logarithmic = [name in LOGARITHMIC for name in directions]
    runs = [on_axes(np.reshape(found, (-1, len(directions))), directions) for found in fresh]
    seeds = np.array([len(found) for found in runs])
    own = on_axes(values, directions)
    mean = np.array([found.mean(0) if len(found) else one for found, one in zip(runs, own, strict=True)])
    mean = mean.round(12)  # the mean of equal densities is that density, and ties with it stay ties
    deviation, freedom = _noise(np.log10(densities), runs)
    error = deviation / np.sqrt(np.maximum(seeds, 1))[:, None]
    half = _student(freedom)[:, None] * error
    low, high = (_unscaled(mean + sign * half, logarithmic) for sign in (-1, 1))
    ways = list(directions.values())
    return Belief(seeds, _unscaled(mean, logarithmic), low, high, _probability(mean, error, freedom, ways))


def with_seeds(table: pd.DataFrame, reruns: pd.DataFrame | None) -> pd.DataFrame:
    """The table of a study with what its companions say.

    reruns: the companion's table, `of` the key of the trial that was run again. The columns that are added: seeds,
    front_probability, and of each objective _mean, _low and _high; the table as it is where nothing was run again.
    """
    directions = table.attrs["objectives"]
    if reruns is None or reruns.empty or not set(directions) <= {*table.columns} & {*reruns.columns}:
        return table
    ended = reruns.dropna(subset=list(directions))
    groups = {key: group[list(directions)].to_numpy(float) for key, group in ended.groupby("of")}
    rows = table[table["outcome"] == "trained"].dropna(subset=list(directions))
    none = np.empty((0, len(directions)))
    belief = believe(
        rows[list(directions)].to_numpy(float),
        rows["density"].to_numpy(float),
        [groups.get(key, none) for key in rows["trial"]],
        directions,
    )
    told = pd.DataFrame({"seeds": belief.seeds, "front_probability": belief.probability}, index=rows.index)
    for column, name in enumerate(directions):
        for part in ("mean", "low", "high"):
            told[f"{name}_{part}"] = getattr(belief, part)[:, column]
    found = table.join(told).astype({"seeds": "Int64"})
    found.attrs = table.attrs
    return found


def _unscaled(values: np.ndarray, logarithmic: Sequence[bool]) -> np.ndarray:
    found = values.copy()
    found[:, logarithmic] = 10 ** found[:, logarithmic]
    return found


def _noise(places: np.ndarray, runs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The standard deviation of one seed at each place (n, m), and the degrees of freedom behind it (n,)."""
    known = [i for i, found in enumerate(runs) if len(found) > 1]
    if not known:
        return np.full((len(runs), runs[0].shape[1]), np.nan), np.full(len(runs), np.nan)
    squares = np.array([((runs[i] - runs[i].mean(0)) ** 2).sum(0) for i in known])
    freedom = np.array([len(runs[i]) - 1 for i in known])
    weights = FAR + np.exp(-0.5 * ((places[:, None] - places[known]) / NEAR) ** 2)
    deviation = np.sqrt(weights @ squares / (weights @ freedom)[:, None])
    return deviation, (weights @ freedom) ** 2 / (weights**2 @ freedom)  # Satterthwaite's


def _student(freedom: np.ndarray) -> np.ndarray:
    """The quantile that bounds the interval."""
    from scipy import stats  # only when something was run again: a query is quicker without

    return np.asarray(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _probability(mean: np.ndarray, error: np.ndarray, freedom: np.ndarray, ways: list[str]) -> np.ndarray:
    """How often each point is non-dominated where all means are drawn from what is believed of them."""
    if np.isnan(error).any():
        return np.full(len(mean), np.nan)
    signs = np.where(np.array(ways) == "max", -1.0, 1.0)
    losses, reach = mean * signs, REACH * error
    worst = losses + reach
    safe = worst[non_dominated(worst, ["min"] * len(ways))]
    beaten = ((safe[None] < (losses - reach)[:, None]).all(2)).any(1)
    drawn = np.flatnonzero(~beaten)
    generator = np.random.default_rng(0)
    counts = np.zeros(len(mean))
    for _ in range(DRAWS):
        noise = generator.standard_t(freedom[drawn, None], size=(len(drawn), len(ways)))
        counts[drawn] += non_dominated(losses[drawn] + error[drawn] * noise, ["min"] * len(ways))
    return counts / DRAWS
