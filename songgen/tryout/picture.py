"""A curve as text, for the terminal."""

from collections.abc import Sequence

WIDTH, HEIGHT = 64, 9


def curve(values: Sequence[float], name: str) -> str:
    """Draw values over their index; several values in one column are averaged, and those that are not finite left out.

    Returns:
        Lines of text, with the largest and the smallest value at the side; empty without values.
    """
    finite = [value for value in values if abs(value) < float("inf")]
    if not finite:
        return ""
    columns = min(WIDTH, len(finite))
    bounds = [place * len(finite) // columns for place in range(columns + 1)]
    means = [sum(finite[begin:end]) / (end - begin) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    low, high = min(means), max(means)
    step = (high - low) / (HEIGHT - 1) or 1.0
    rows = [round((high - mean) / step) for mean in means]
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}
    lines = [
        f"{labels.get(line, ''):>9} |" + "".join("*" if row == line else " " for row in rows).rstrip()
        for line in range(HEIGHT)
    ]
    return "\n".join([f"{name:>9}", *lines, " " * 10 + "+" + "-" * columns, f"{'':>11}{len(values)} steps"])
