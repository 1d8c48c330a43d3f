"""Numbers as they are printed: a true minus, and a dash for what does not exist."""

import math


def number(value, digits):
    """Write a number, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value, digits):
    """Write a number with its sign; 0 has none."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def interval(found, digits, write=number):
    """Write the interval of a summary or a comparison, ``low`` to ``high``."""
    if math.isnan(found["low"]):
        return "–"
    return f"{write(found['low'], digits)} to {write(found['high'], digits)}"
