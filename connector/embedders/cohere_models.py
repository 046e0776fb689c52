"""What is known of Cohere's models, each fact with where and when it was read. The only place that has their names.

    fact              read where                                                                           when
    ----------------  -----------------------------------------------------------------------------------  -------
    dimension         cohere-openapi.yaml, CreateEmbedJobRequest; docs, cohere-embed.mdx                   2026-08
    tokens a text     docs, cohere-embed.mdx                                                               2026-08
    Embed Jobs        CreateEmbedJobRequest lists v3 alone; for v4 the docs contradict themselves, and     2026-08
                      this guide's banner says "only compatible with our embed v3.0 models"
    price             tables of third parties, as docs defer to cohere.com/pricing: not verified           2026-08
    rate limit        docs, rate-limits.mdx: 2,000 inputs a minute, trial and production keys alike        2026-08

embed-v4.0 goes through Embed alone. What the hosted service has instead of Embed Jobs for it, the Batches API, is
another dataset type and another result, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .estimate import ENGLISH, MULTILINGUAL, UNKNOWN, Alphabets

HOSTED_URL: Final = "https://api.cohere.com"
HOSTED_DOMAINS: Final = ("cohere.com", "cohere.ai")  # the latter is the older name of the same service
HOSTED_INPUTS_PER_MINUTE: Final = 2_000
HOSTED_DATASET_BYTES: Final = 1_500_000_000
"""How large one dataset may be (docs, datasets.mdx, read 2026-08)."""
PASSAGE_TOKENS: Final = 512
"""How long a passage is at most unless the settings say more: an answer is to be found in it, not a book."""
PRICE_SOURCE: Final = "third-party tables of 2026-08, not verified"


@dataclass(frozen=True, slots=True)
class CohereModel:
    """One model of the hosted service."""

    name: str
    dimension: int
    tokens: int  # of one text, at most
    has_jobs: bool
    per_million_tokens: float  # USD
    alphabets: Alphabets = UNKNOWN  # how its tokenizer was made, for estimates


MODELS: Final[Mapping[str, CohereModel]] = {
    model.name: model
    for model in (
        CohereModel("embed-english-v3.0", 1024, 512, has_jobs=True, per_million_tokens=0.10, alphabets=ENGLISH),
        CohereModel("embed-english-light-v3.0", 384, 512, has_jobs=True, per_million_tokens=0.10, alphabets=ENGLISH),
        CohereModel(
            "embed-multilingual-v3.0", 1024, 512, has_jobs=True, per_million_tokens=0.10, alphabets=MULTILINGUAL
        ),
        CohereModel(
            "embed-multilingual-light-v3.0", 384, 512, has_jobs=True, per_million_tokens=0.10, alphabets=MULTILINGUAL
        ),
        CohereModel("embed-v4.0", 1536, 128_000, has_jobs=False, per_million_tokens=0.12),
    )
}
