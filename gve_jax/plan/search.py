"""The largest value that fits, found with few measurements."""

from collections.abc import Callable, Mapping, Sequence


def largest_fitting(
    need: Callable[[int], int],
    known: Mapping[int, int],
    limit: int,
    candidates: Sequence[int],
    tries: int,
) -> int | None:
    """The largest candidate found whose need is within the limit.

    Memory is nearly a straight line in a batch or a chunk: two points give the next
    guess. What is returned was measured, and may lie below the largest there is.

    Args:
      need: value -> memory; rises with the value. It is slow.
      known: needs of some candidates, at least one.
      limit: of memory, in its unit.
      candidates: ascending.
      tries: most calls of `need`.

    Returns:
      None: none of those tried fits.
    """
    known = {candidates.index(value): n for value, n in known.items()}
    while True:
        low = max((i for i, n in known.items() if n <= limit), default=-1)
        high = min((i for i, n in known.items() if n > limit), default=len(candidates))
        if not tries or high - low < 2:
            return candidates[low] if low >= 0 else None
        guess = _guess([(candidates[i], n) for i, n in known.items()], limit)
        at = sum(c <= guess for c in candidates) - 1
        at = min(max(at, low + 1), high - 1)
        known[at] = need(candidates[at])
        tries -= 1


def _guess(points: list[tuple[int, int]], limit: int) -> float:
    """Where a line through the points reaches the limit."""
    # The two that are nearest to it.
    points = sorted(sorted(points, key=lambda p: abs(p[1] - limit))[:2])
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(points) == 1:
        return x0 * limit / y0
    return x0 + (limit - y0) * (x1 - x0) / (y1 - y0) if y1 > y0 else 2 * x1
