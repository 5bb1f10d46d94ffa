"""How long something takes: a distribution, drawn from with a number in [0, 1) that the caller brings.

In JSON: `[1, 3]` is evenly spread; `{"kind": "log_normal", "median": 5, "p99": 60}` has the long tail that real
clouds have; `{"kind": "mixture", "of": [[0.95, [0, 1]], [0.05, [30, 60]]]}` is mostly one thing and sometimes another.
"""

import math
from statistics import NormalDist

import msgspec

_P99 = NormalDist().inv_cdf(0.99)


class LogNormal(msgspec.Struct, frozen=True, tag_field="kind", tag="log_normal"):
    """Half of all below `median`, one in a hundred above `p99`."""

    median: float
    p99: float

    def __post_init__(self) -> None:
        if not 0 < self.median <= self.p99:
            raise ValueError("0 < median <= p99")


class Mixture(msgspec.Struct, frozen=True, tag_field="kind", tag="mixture"):
    """(weight, spread) of each; weights add up to 1."""

    of: tuple[tuple[float, tuple[float, float]], ...]

    def __post_init__(self) -> None:
        if not math.isclose(sum(weight for weight, _ in self.of), 1.0):
            raise ValueError("the weights of a mixture must add up to 1")


Spread = tuple[float, float] | LogNormal | Mixture


def draw(spread: Spread, chance: float) -> float:
    """The value below which `chance` of all lie."""
    match spread:
        case LogNormal(median, p99):
            if chance <= 0:
                return 0.0
            return median * math.exp(math.log(p99 / median) / _P99 * NormalDist().inv_cdf(chance))
        case Mixture(of):
            for weight, (least, most) in of:
                if chance < weight:
                    return least + (most - least) * chance / weight
                chance -= weight
            return of[-1][1][1]
        case (least, most):
            return least + (most - least) * chance
