"""One walk over the source: what differs is embedded and delivered, group by group, and what is gone is taken out.

Every sink has a lane of its own. One that has stopped is left out of the rest of the walk. So is one that is much
slower than the others: it keeps what it was given, and has a walk of its own when the others are done, in which
nothing is embedded that they needed, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from .ahead import texts_to_write
from .delivery import Delivery
from .embedding import Embedding
from .errors import SafetyError, StoppedError, TransientError
from .events import Emit, SinkFellBehind
from .lanes import Lanes
from .parcels import chunks
from .plan import Change, DeleteGuard
from .survey import Survey, Update
from .tally import Departures, Tally

if TYPE_CHECKING:
    from .model import Vectors

DOCUMENTS_PER_DELETION = 1000


@dataclass(slots=True)
class Walk:
    """Brings some sinks to what the source has; `slow` are those that it leaves for another walk."""

    survey: Survey
    deliveries: Mapping[str, Delivery]
    embedding: Embedding
    lanes: Lanes
    emit: Emit
    open_texts: Callable[[Sequence[bytes]], set[bytes]] | None = None  # which of some texts an embed job has
    tally: Tally = field(default_factory=Tally)
    slow: list[str] = field(default_factory=list)
    objection: str | None = None  # why it stopped to ask before it embeds more
    departures: Departures = field(init=False)

    def bring_what_differs(self) -> None:
        """Embed and deliver, group by group, until the source is walked, nobody listens or no more may be spent."""
        try:
            for group in self.survey.groups() if self._listening() else ():
                self._bring(group)
                if all(delivery.stopped for delivery in self.deliveries.values()):
                    break
        except (TransientError, StoppedError) as error:  # the source or the embedder gave up; what was delivered stays
            self.survey.break_off(error)
        except SafetyError as error:
            self.objection = str(error)
            self.survey.break_off(None)
        self.lanes.drain(self._keeping_up())

    def _bring(self, group: Sequence[Update]) -> None:
        group = self._without_waiting(group)
        vectors, refused = self.embedding.embed(texts_to_write(group))
        updates = [_refuse(update, refused) for update in group] if refused else group
        self.tally.add(updates)
        for name in self.lanes.make_room(self._listening):
            self.slow.append(name)
            self.survey.leave_out(name)
            self.emit(SinkFellBehind(name))
        if self.slow:
            self.tally.put_off(updates)
        for name in self._keeping_up():
            if changes := self.tally.due(name, updates):
                self.lanes.put(name, partial(self._deliver, self.deliveries[name], updates, changes, vectors))
            if self.deliveries[name].stopped:
                self.survey.leave_out(name)

    def _without_waiting(self, group: Sequence[Update]) -> Sequence[Update]:
        """Leave what an open job is embedding to the run that takes in its result: nothing is paid for twice."""
        if self.open_texts is None or not (open_texts := self.open_texts(list(texts_to_write(group)))):
            return group
        ready = [update for update in group if open_texts.isdisjoint(texts_to_write([update]))]
        self.survey.waiting += len(group) - len(ready)
        return ready

    def _deliver(
        self,
        delivery: Delivery,
        updates: Sequence[Update],
        changes: Sequence[Change],
        vectors: Mapping[bytes, Vectors],
    ) -> None:
        self.tally.refuse(updates, delivery.write(changes, vectors))

    def take_out(self, guard: DeleteGuard, objection: str | None = None) -> None:
        """Remove what is gone or rejected, unless the guard objects, or has done so in an earlier walk."""
        departures = self.tally.departures(self.survey, guard)
        self.departures = departures = replace(departures, objection=objection or departures.objection)
        for name, delivery in self.deliveries.items():
            if departures.objection:
                delivery.behind += departures.behind(name)
                continue
            for removals in chunks(departures.removals[name], DOCUMENTS_PER_DELETION):
                self.lanes.put(name, partial(delivery.remove, removals))
            for gone in chunks(departures.gone[name], DOCUMENTS_PER_DELETION):
                self.lanes.put(name, partial(delivery.forget, gone))
        self.lanes.drain(self._keeping_up())

    def _keeping_up(self) -> list[str]:
        """The sinks that this walk is for to its end."""
        return [name for name in self.deliveries if name not in self.slow]

    def _listening(self) -> list[str]:
        return [name for name in self._keeping_up() if not self.deliveries[name].stopped]


def _refuse(update: Update, refused: Mapping[bytes, str]) -> Update:
    """Reject a document if the embedder refused one of its texts: it is in the sinks whole or not at all."""
    reasons = [refused[hash] for hash in update.wanted.text_hashes if hash in refused]
    return update.refuse(reasons[0]) if reasons else update
