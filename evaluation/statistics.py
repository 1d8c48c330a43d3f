"""Statistics over subjects, the unit of them all: a metric summarised, and two runs compared.

References
----------
.. [1] Efron: Better bootstrap confidence intervals. JASA 82:171, 1987.
.. [2] Kerby: The simple difference formula: an approach to teaching nonparametric correlation.
   Comprehensive Psychology 3:11.IT.3.1, 2014.
"""

import math

import numpy as np
from scipy import stats

SIGNIFICANCE = 0.05
# Values that lie closer together are the same but for rounding; a voxel is about 0.001 ml.
DECIMALS = 9


def summary(values, seed):
    """Describe one metric over all subjects; NaN where it does not exist.

    Returns
    -------
    dict
        ``n`` subjects with the metric and ``missing`` ones without; of the `n`: ``mean``, ``sd``
        (of a sample, ``n − 1``), ``median``, quartiles ``q1`` and ``q3``, and the interval of the
        mean, ``low`` to ``high``.
    """
    values = np.asarray(values, dtype=float)
    present = values[~np.isnan(values)]
    n = present.size
    quartiles = np.quantile(present, (0.25, 0.5, 0.75)).tolist() if n else [math.nan] * 3
    low, high = mean_interval(present, seed)
    return {
        "n": n,
        "missing": values.size - n,
        "mean": float(present.mean()) if n else math.nan,
        "sd": float(present.std(ddof=1)) if n > 1 else math.nan,
        "median": quartiles[1],
        "q1": quartiles[0],
        "q3": quartiles[2],
        "low": low,
        "high": high,
    }


def mean_interval(values, seed):
    """Bootstrap the 95 % interval of a mean over subjects, bias-corrected and accelerated [1]_.

    NaN for fewer than 3 subjects, which say nothing of others; both ends the mean if all values are
    the same.
    """
    if values.size < 3:
        return math.nan, math.nan
    if np.ptp(values) < 10.0**-DECIMALS:
        return (float(values.mean()),) * 2
    interval = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=1 - SIGNIFICANCE,
        method="BCa",
        batch=500,  # stays in the cache: 8 times faster for 655 subjects
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def compare(one, other, seed, larger_is_better):
    """Ask whether `one` way does better than the `other` on the same subjects, in the same order.

    Everything is about the differences ``d = one − other`` of the subjects that have both values,
    rounded to 9 decimals, so that rounding decides nothing. The effect size is the matched-pairs
    rank-biserial correlation ``r = (Σ⁺ − Σ⁻) / (Σ⁺ + Σ⁻)`` with Σ⁺ and Σ⁻ the rank sums of the
    positive and negative differences, ranked by their size [2]_: 1 if `one` is larger in all, 0 if
    they balance, −1 if `other` is.

    Returns
    -------
    dict
        ``n`` pairs, and ``missing`` ones that were left out; ``mean_difference`` and its interval
        ``low`` to ``high``; ``p`` of Wilcoxon's signed-rank test, two-sided, 1 if all differences
        are 0; ``effect_size``; ``wins``, ``ties`` and ``losses`` of `one`; ``verdict``:
        ``"helped"`` if p < 0.05 and the interval and the effect size are on the good side of 0,
        ``"hurt"`` if on the bad one, else ``"not shown"``.
    """
    differences = np.array([a - b for a, b in zip(one, other, strict=True)], dtype=float)
    d = np.round(differences[~np.isnan(differences)], DECIMALS)
    low, high = mean_interval(d, seed)
    if d.any():
        p = float(stats.wilcoxon(d).pvalue)
        ranks = stats.rankdata(np.abs(d[d != 0]))
        effect = float((ranks * np.sign(d[d != 0])).sum() / ranks.sum())
    else:
        p, effect = (1.0, 0.0) if d.size else (math.nan, math.nan)

    up = p < SIGNIFICANCE and low > 0 and effect > 0
    down = p < SIGNIFICANCE and high < 0 and effect < 0
    helped, hurt = (up, down) if larger_is_better else (down, up)
    better = d if larger_is_better else -d
    return {
        "n": d.size,
        "missing": differences.size - d.size,
        "mean_difference": float(d.mean()) if d.size else math.nan,
        "low": low,
        "high": high,
        "p": p,
        "effect_size": effect,
        "wins": int((better > 0).sum()),
        "ties": int((d == 0).sum()),
        "losses": int((better < 0).sum()),
        "verdict": "helped" if helped else "hurt" if hurt else "not shown",
    }
