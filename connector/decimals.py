"""The shortest decimals of float32 numbers: 0.1 and not 0.10000000149011612, which is the same number to float32.

JSON encoders know doubles only, and write a float32 with the digits that a double needs: nearly twice as many bytes,
of which half say nothing. Readers of the short ones get the same float32 back, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS: Final = (6, 7, 8, 9)
"""Of a number that needs up to six digits, the nearest of six has them; nine tell all float32 apart (IEEE 754)."""
POWERS: Final = np.array([float(f"1e{power}") for power in range(23)])
"""The powers of ten that a float64 holds without error; what is divided by one is rounded only once."""


def shortest(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Find the float64 that any encoder of JSON writes as the shortest decimal that is read back as the float32."""
    wanted = numbers.ravel()
    found = wanted.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(found)))
        is_plain = (exponent < DIGITS[0]) & (exponent >= DIGITS[-1] - len(POWERS))
    plain = np.flatnonzero(is_plain)
    exact, places = found[plain], -exponent[plain].astype(np.intp)  # after the point, if one digit is to be kept
    for digits in DIGITS:
        power = POWERS[places + (digits - 1)]
        rounded = np.rint(exact * power) / power
        fits = rounded.astype(np.float32) == wanted[plain]
        found[plain[fits]] = rounded[fits]
        plain, exact, places = plain[~fits], exact[~fits], places[~fits]
    for index in np.flatnonzero(~is_plain & np.isfinite(found)).tolist():
        found[index] = float(str(wanted[index]))  # as good, and a hundred times as slow: very small or large numbers
    return found.reshape(numbers.shape)
