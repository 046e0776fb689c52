"""How many tokens a text has, without the model's tokenizer: an estimate that is hardly ever too low.

The tokenizer of a hosted model is not on this machine, and `plan` asks nothing of the network. An estimate that is
too high makes passages a little shorter; one that is too low has a text refused, or cut. So every weight is above the
mean that was measured, against the WordPiece tokenizer of all-MiniLM-L6-v2 (30,522 pieces, English) in November 2026:

    a run of                            tokens                                                    measured
    ----------------------------------  --------------------------------------------------------  -----------------
    letters, in a text that is English  1.25 up to 5 letters, 0.28 for each more, 0.48 from 12    1.1 of 4, 2.1 of 10
    letters, in any other               1.3 up to 3 letters, 0.55 for each more, accents beside   1.2 of 3, 3.9 of 10
    digits                              1, and 0.6 for each beyond the first                      1.9 of 4, 5 of 10
    letters and digits in turns         0.8 of each (hashes, base64)                              0.65 to 0.75 of each
    anything else but white space       by its alphabet, see `Alphabets`                          1 of each

A text is English as far as its words are the most common of English, or of code: wholly from one in eight of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple

SPECIAL_TOKENS: Final = 2

_RUN = re.compile(r"[0-9A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")  # Latin, with its accents
_PIECE = re.compile(r"[0-9]+|[A-Z\u00c0-\u00de]+(?![a-z])|[A-Z]?[a-z\u00df-\u024f\u1e00-\u1eff]+|[A-Z\u00c0-\u00de]+")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_CHINESE = re.compile("[\u2e80-\u30ff\u31c0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_\u2e80-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")  # of what is no run: Cyrillic, ...
_PLAIN = re.compile(r"[!-~]")
_COMMON_WORDS: Final = """
    the of and that for with are this by from or not have has but its which one all if can will they you we he she his
    her their there been when more what would who than any each only other may where then them into some how does our
    your these those self return def class import none str int true false else raise assert test type name const let
    var function new public static void
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
_ENGLISH_FROM, _ENGLISH_AT = 0.03, 0.12  # of the words; measured: German 0.003, Polish 0.02, English 0.26, Python 0.28
_MARGIN: Final = 1.04
_PIECES_OF_HASHES, _LETTERS_OF_NAMES = 3, 3  # getUserName has three pieces of four; hashes and base64 have shorter ones
_REMEMBERED_LETTERS: Final = 40


class Alphabets(NamedTuple):
    """Tokens for a character that is not Latin, by what knows how a model's tokenizer was made."""

    chinese: float  # and Japanese, characters of full width
    hangul: float
    letters: float  # of any other alphabet: Cyrillic, Arabic, Devanagari, ...
    symbols: float  # emoji, arrows, ... : all that is not ASCII besides


ENGLISH: Final = Alphabets(chinese=1.0, hangul=3.0, letters=1.0, symbols=1.0)
"""WordPiece of an English vocabulary: one for each character, and a Hangul syllable has up to three."""
MULTILINGUAL: Final = Alphabets(chinese=1.0, hangul=1.0, letters=0.6, symbols=2.0)
"""SentencePiece of many languages. Not measured: XLM-R is said to take 3 to 4 Cyrillic letters a token."""
UNKNOWN: Final = Alphabets(chinese=1.5, hangul=3.0, letters=1.0, symbols=3.0)
"""Any tokenizer, also one of bytes."""


def estimate_tokens(texts: Sequence[str], alphabets: Alphabets = UNKNOWN) -> list[int]:
    """Estimate each text's tokens, special ones included. The same text gives the same number everywhere."""
    return [_estimate(text, alphabets) for text in texts]


def _estimate(text: str, alphabets: Alphabets) -> int:
    runs = _RUN.findall(text)
    # A text may be one run of megabytes, which is not remembered.
    remembered = _remembered if max(map(len, runs), default=0) <= _REMEMBERED_LETTERS else _weights
    as_english, as_foreign, common = map(sum, zip(*map(remembered, runs), strict=True)) if runs else (0.0, 0.0, 0)
    share = common / max(1, len(runs))
    english = min(1.0, max(0.0, (share - _ENGLISH_FROM) / (_ENGLISH_AT - _ENGLISH_FROM)))
    tokens = english * as_english + (1.0 - english) * as_foreign
    others = len("".join(text.split())) - sum(map(len, runs))
    tokens += others if text.isascii() else _of_others(_RUN.sub("", text), others, alphabets)
    return SPECIAL_TOKENS + ceil(_MARGIN * tokens)


class _Weights(NamedTuple):
    """The tokens of one run, if its text is English and if it is not; and whether it speaks for English."""

    english: float
    foreign: float
    is_common: bool


def _weights(run: str) -> _Weights:
    if run.isdigit():
        tokens = 1 + 0.6 * (len(run) - 1)
        return _Weights(tokens, tokens, is_common=False)
    if run.isalpha() and (run.islower() or run.isupper() or run.istitle()):
        capitals = 0.3 + 0.5 * len(run) if run.isupper() and len(run) > 1 else 0.0  # TEI, JSON: seldom in a vocabulary
        return _Weights(max(_as_english(len(run)), capitals), max(_as_foreign(run), capitals), run.lower() in _COMMON)
    pieces = _PIECE.findall(run)
    if len(pieces) >= _PIECES_OF_HASHES and len(run) < _LETTERS_OF_NAMES * len(pieces):
        return _Weights(0.8 * len(run), 0.8 * len(run), is_common=False)
    of_pieces = [_weights(piece) for piece in pieces if piece != run]
    if not of_pieces:  # of letters that have no case
        return _Weights(len(run), len(run), is_common=False)
    return _Weights(sum(of.english for of in of_pieces), sum(of.foreign for of in of_pieces), is_common=False)


_remembered = lru_cache(1 << 16)(_weights)


def _as_english(letters: int) -> float:
    return 1.25 + 0.28 * max(0, letters - 5) + 0.2 * max(0, letters - 12)


def _as_foreign(run: str) -> float:
    accented = 0 if run.isascii() else len(run) - len(run.encode("ascii", "ignore"))
    return 1.3 + 0.55 * max(0, len(run) - 3) + 0.25 * accented


def _of_others(rest: str, others: int, alphabets: Alphabets) -> float:
    """Estimate the tokens of what is in no run, of which there are so many characters but white space."""
    chinese, hangul = len(_CHINESE.findall(rest)), len(_HANGUL.findall(rest))
    letters = len(_LETTER.findall(rest))
    plain = len(_PLAIN.findall(rest))
    symbols = others - chinese - hangul - letters - plain
    return (
        plain
        + chinese * alphabets.chinese
        + hangul * alphabets.hangul
        + letters * alphabets.letters
        + symbols * alphabets.symbols
    )
