"""Plots in text, for a terminal."""

from collections.abc import Sequence

_PARTS = " ▁▂▃▄▅▆▇█"


def columns(values: Sequence[float], *, height: int, label: str, below: str) -> str:
    """Columns from zero up to each value, in eighths of a character, with the largest value at the top.

    Args:
        values: not negative; one a column.
        height: of the largest column, in lines.
        label: of the largest value, on the left.
        below: what the line under the columns says.
    """
    top = max(values) or 1.0
    eighths = [round(8 * height * value / top) for value in values]
    # A value above zero is seen, be it ever so small.
    eighths = [max(full, 1) if value > 0 else 0 for full, value in zip(eighths, values, strict=True)]
    margin = len(label)
    lines = []
    for line in reversed(range(height)):
        left = label if line == height - 1 else "0".rjust(margin) if line == 0 else " " * margin
        lines.append(f"{left} │{''.join(_PARTS[min(8, max(0, full - 8 * line))] for full in eighths)}".rstrip())
    return "\n".join([*lines, f"{' ' * margin} └{'─' * len(values)}", f"{' ' * margin}  {below}"])
