"""Where elements stand in the periodic table of 18 groups."""

from __future__ import annotations

NOBLE = (2, 10, 18, 36, 54, 86, 118)
F_BLOCK = {6: (57, 70), 7: (89, 102)}  # lutetium and lawrencium stand in group 3


def place_in_table(number: int) -> tuple[int, int]:
    """Group (1 to 18; 0 for lanthanides and actinides) and period of the element with this atomic number."""
    period = next(row for row, last in enumerate(NOBLE, start=1) if number <= last)
    if period in F_BLOCK and F_BLOCK[period][0] <= number <= F_BLOCK[period][1]:
        return 0, period
    first, last = (NOBLE[period - 2] + 1 if period > 1 else 1), NOBLE[period - 1]
    from_left = number - first + 1
    return (from_left if from_left <= min(period, 2) else 18 - (last - number)), period
