"""How many documents a paired comparison needs, and the smallest loss that a number of them shows.

Power is that of the test which the quantization report makes: the exact McNemar test, at 5 % and
two-sided unless stated otherwise, and a rejection counts where it is in the direction of the loss.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtrc, gammaln, nctdtr, ndtri, stdtrit, xlog1py, xlogy
from scipy.stats import binom

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Sides = Literal["two-sided", "one-sided"]

ALPHA = 0.05
"""Probability of a false alarm."""

POWER = 0.8
"""Probability of seeing a loss that is there."""

WORST_DISCORDANCE = 0.5
"""Assumed share of documents whose outcome changes, where nothing is recorded: that of two models
that are right on half of the documents each and have nothing to do with each other."""

DECIMALS = 6
"""Of a smallest detectable loss, in the unit of the loss: processors and their libraries differ in
the last digits of sums, and published files must follow from their records on all of them."""

_TAILS = 12
"""Standard deviations of the number of flips on either side that the enumeration takes in."""


def mcnemar_power(
    n: int, discordance: float, loss: float, *, alpha: float = ALPHA, sides: Sides = "two-sided"
) -> float:
    """Probability that the exact McNemar test finds a loss, by enumeration.

    The number of flips is binomial; given it, so is the number of losses among them.

    Source: R. J. Connor, Biometrics 43 (1987), 207–211, without its approximation.

    Args:
        n: Documents.
        discordance: Probability that a document's outcome changes; at least ``loss``.
        loss: Probability of right-to-wrong minus that of wrong-to-right, 0 … 1.
        alpha: Level of the test.
        sides: Whether the test looks for losses and gains, or for losses only.
    """
    flips, critical = _critical_losses(n, discordance, alpha / (2 if sides == "two-sided" else 1))
    log_share = (
        gammaln(n + 1)
        - gammaln(flips + 1)
        - gammaln(n - flips + 1)
        + xlogy(flips, discordance)
        + xlog1py(n - flips, -discordance)
    )
    losing = (discordance + loss) / (2 * discordance) if discordance else 0.0
    reachable = critical <= flips
    power = np.zeros(len(flips))
    power[reachable] = bdtrc(critical[reachable] - 1, flips[reachable], min(1.0, losing))
    return float(np.exp(log_share) @ power)


def _critical_losses(n: int, discordance: float, tail: float) -> tuple[Integers, Floats]:
    """Likely numbers of flips, and for each the fewest losses among them that are significant."""
    centre = n * discordance
    reach = _TAILS * (math.sqrt(centre * (1 - discordance)) + 1)
    return _critical(max(0, math.floor(centre - reach)), min(n, math.ceil(centre + reach)), tail)


@functools.lru_cache(maxsize=256)
def _critical(fewest: int, most: int, tail: float) -> tuple[Integers, Floats]:
    flips = np.arange(fewest, most + 1)
    return flips, binom.isf(tail, flips, 0.5) + 1


@functools.lru_cache(maxsize=65536)
def smallest_detectable_loss(
    n: int,
    discordance: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    sides: Sides = "two-sided",
) -> float | None:
    """The smallest loss that the exact McNemar test finds with the given power.

    A loss above the discordance needs more flips than that: it is then made of losses alone.

    Args:
        n: Documents.
        discordance: Share of documents whose outcome changes.
        alpha: Level of the test.
        power: Wanted probability of finding the loss.
        sides: As for `mcnemar_power`.

    Returns:
        A share of documents, 0 … 1, to `DECIMALS`; None where even the loss of every document
        would not do.
    """

    def excess(loss: float) -> float:
        changed = max(discordance, loss)
        return mcnemar_power(n, changed, loss, alpha=alpha, sides=sides) - power

    if excess(1.0) < 0:
        return None
    return round(float(brentq(excess, 0.0, 1.0, xtol=1e-12)), DECIMALS)


def documents_needed(
    loss: float,
    discordance: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    sides: Sides = "two-sided",
) -> int:
    """Documents with which the exact McNemar test finds a loss with the given power.

    The search starts at Connor's approximation and ends where one document fewer is not enough.

    Source: R. J. Connor, Biometrics 43 (1987), 207–211.

    Args:
        loss: To be found, a share of documents above 0.
        discordance: Share of documents whose outcome changes; taken as at least ``loss``.
        alpha: Level of the test.
        power: Wanted probability of finding the loss.
        sides: As for `mcnemar_power`.
    """
    changed = max(discordance, loss)

    def enough(n: int) -> bool:
        return mcnemar_power(n, changed, loss, alpha=alpha, sides=sides) >= power

    return _fewest(enough, connor_documents(loss, changed, alpha=alpha, power=power, sides=sides))


def connor_documents(
    loss: float,
    discordance: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    sides: Sides = "two-sided",
) -> int:
    """Connor's normal approximation of the documents that McNemar's test needs.

    Source: R. J. Connor, Biometrics 43 (1987), 207–211, equation 3.
    """
    false_alarm, miss = -ndtri(alpha / (2 if sides == "two-sided" else 1)), ndtri(power)
    root = float(false_alarm * math.sqrt(discordance) + miss * math.sqrt(discordance - loss**2))
    return math.ceil((root / loss) ** 2)


def t_power(
    n: int, sd: float, loss: float, *, alpha: float = ALPHA, sides: Sides = "two-sided"
) -> float:
    """Probability that the paired t test finds a loss; from the noncentral t distribution.

    Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences (2nd edition 1988),
    chapter 2.

    Args:
        n: Documents, at least 2.
        sd: Standard deviation of the documents' differences, above 0, in the unit of the loss.
        loss: Mean difference to be found, at least 0.
        alpha: Level of the test.
        sides: Whether the test looks for losses and gains, or for losses only.
    """
    critical = stdtrit(n - 1, 1 - alpha / (2 if sides == "two-sided" else 1))
    return 1 - float(nctdtr(n - 1, loss / sd * math.sqrt(n), critical))


def smallest_detectable_shift(
    n: int, sd: float, *, alpha: float = ALPHA, power: float = POWER, sides: Sides = "two-sided"
) -> float | None:
    """The smallest mean loss that the paired t test finds, to `DECIMALS`; None for one document.

    Args:
        n: Documents.
        sd: As for `t_power`.
        alpha: Level of the test.
        power: Wanted probability of finding the loss.
        sides: As for `t_power`.
    """
    if n < 2:
        return None

    def excess(loss: float) -> float:
        return t_power(n, sd, loss, alpha=alpha, sides=sides) - power

    high = sd
    while excess(high) < 0:
        high *= 2
    return round(float(brentq(excess, 0.0, high, xtol=1e-12 * sd)), DECIMALS)


def documents_needed_shift(
    loss: float,
    sd: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    sides: Sides = "two-sided",
) -> int:
    """Documents with which the paired t test finds a mean loss above 0 with the given power."""

    def enough(n: int) -> bool:
        return n > 1 and t_power(n, sd, loss, alpha=alpha, sides=sides) >= power

    quantiles = ndtri(1 - alpha / (2 if sides == "two-sided" else 1)) + ndtri(power)
    return _fewest(enough, math.ceil((quantiles * sd / loss) ** 2))


def _fewest(enough: Callable[[int], bool], guess: int) -> int:
    """A number that is enough while one less is not, found from a guess."""
    high = max(1, guess)
    while not enough(high):
        high *= 2
    low = high // 2
    while low and enough(low):
        low //= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
