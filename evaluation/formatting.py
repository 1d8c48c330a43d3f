"""Numbers as they are printed: a true minus, and a dash for what does not exist."""

import math


def number(value, digits):
    """Write a number, or a dash for NaN; 0 has no sign."""
    text = f"{value:.{digits}f}"
    return (
        "–" if math.isnan(value) else text.removeprefix("-" * (float(text) == 0)).replace("-", "−")
    )


def signed(value, digits):
    """Write a number with its sign; 0 has none."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def mean_and_sd(found, digits):
    """Write the mean of a summary ± SD; the mean alone where one subject has none."""
    mean, sd = number(found["mean"], digits), number(found["sd"], digits)
    return mean if math.isnan(found["sd"]) else f"{mean} ± {sd}"


def p_value(p):
    """Write the p of a test; a test of simulated or rounded numbers never shows that it is 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def interval(found, digits, write=number):
    """Write the interval of a summary or a comparison, ``low`` to ``high``."""
    if math.isnan(found["low"]):
        return "–"
    return f"{write(found['low'], digits)} to {write(found['high'], digits)}"
