"""The questions of a search as the filters of Qdrant's client."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from .qdrant_payload import SOURCE
from .qdrant_search import Is, OneOf, Question, Within


def owned_by(owner: str) -> models.FieldCondition:
    """Ask for the points that bear an owner's mark."""
    return models.FieldCondition(key=SOURCE, match=models.MatchValue(value=owner))


def asked_filter(owner: str, asked: Sequence[Sequence[Question]]) -> models.Filter:
    """Ask for an owner's points; of each of the lists, one question has to be answered with yes."""
    must: list[models.Condition] = [owned_by(owner)]
    must += [models.Filter(should=[_condition(question) for question in any_of]) for any_of in asked]
    return models.Filter(must=must)


def _condition(question: Question) -> models.FieldCondition:
    match question:
        case OneOf():
            return models.FieldCondition(key=question.key, match=models.MatchAny(any=list(question.texts)))
        case Is():
            return models.FieldCondition(key=question.key, match=models.MatchValue(value=question.value))
        case Within():
            bounds = models.Range(gte=question.at_least, gt=question.above, lte=question.at_most, lt=question.below)
            return models.FieldCondition(key=question.key, range=bounds)
