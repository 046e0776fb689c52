"""The parts of each generation: its own embedder, splitter and sinks.

An old generation's embedder is rebuilt from the settings that it was made with. Secrets are never stored, so they are
those of the present [embedder], if that has the same kind and the same addresses: a key is never sent to a service
that it is not for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from .checkpoint import Checkpoints
from .config import Settings, canonical
from .errors import BusyError, ConfigError, SinkError, TransientError
from .generation_book import GenerationBook
from .generations import (
    FIRST,
    Decision,
    Generation,
    Made,
    State,
    Step,
    believe,
    decide,
    ledger_name,
    live_of,
    with_live,
)
from .parts import Parts
from .passages import PassageSplitter
from .plugins import BuildContext, EmbedderSettings, find
from .ports import Embedder, GenerationSink, Sink
from .vectors import SqliteVectors

if TYPE_CHECKING:
    from .ports import Source


NUMBERS_TRIED: Final = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """What readers of one sink get, and what they need for it."""

    number: int  # of the generation
    embedder: Embedder  # that made it
    section: EmbedderSettings  # that built the embedder
    sink: Sink


class OpenSync:
    """What one command has open of a sync. Everything is opened when it is first asked for, and closed together.

    Open for writing it holds the lease, so all that it opens has one writer.
    """

    def __init__(self, settings: Settings, opened: ExitStack, *, read_only: bool) -> None:
        self.settings, self.read_only = settings, read_only
        self._opened = opened
        self.checkpoints = opened.enter_context(closing(Checkpoints.open(settings.state_path, read_only=read_only)))
        self.book = GenerationBook(self.checkpoints)
        self._context = build_context(settings, seed=self.checkpoints.seed, read_only=read_only)
        self._source: Source | None = None
        self._embedders: dict[str, Embedder] = {}  # by identity
        self._splitters: dict[str, PassageSplitter] = {}
        self._sinks: dict[tuple[str, int], Sink] = {}

    # --- parts --------------------------------------------------------------------------------

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = self.settings.source.build(self._context)
        return self._source

    @property
    def asked_embedder(self) -> Embedder:
        """The embedder of the settings."""
        if "" not in self._embedders:
            built = self._opened.enter_context(closing(self.settings.embedder.build(self._context)))
            self._embedders[""] = self._embedders[built.identity] = built
        return self._embedders[""]

    @property
    def asked(self) -> Made:
        """What the settings ask for."""
        embedder = self.asked_embedder
        return Made(embedder.identity, self._splitter(embedder).identity)

    def embedder(self, generation: Generation) -> Embedder:
        """Give the embedder that a generation was made with; ConfigError says why it cannot be had any more."""
        wanted = generation.made.embedder
        if wanted not in self._embedders and not self._is_asked(wanted):
            try:
                built = self._rebuild(generation).build(self._context)
            except (ConfigError, ImportError) as error:
                raise _gone(generation, str(error)) from error
            self._opened.enter_context(closing(built))
            if built.identity != wanted:
                raise _gone(generation, f"its settings make {built.identity} now")
            self._embedders[wanted] = built
        return self._embedders[wanted]

    def _is_asked(self, identity: str) -> bool:
        """Tell whether the embedder of the settings has this identity. One that cannot be built has another."""
        try:
            return self.asked_embedder.identity == identity
        except ConfigError:
            if self.book.all():
                return False
            raise

    def _rebuild(self, generation: Generation) -> EmbedderSettings:
        if generation.embedder_settings is None:
            raise ConfigError("its settings are not known; it was made before they were kept")
        return restored(generation.embedder_settings, self.settings.embedder)

    def _splitter(self, embedder: Embedder) -> PassageSplitter:
        if embedder.identity not in self._splitters:
            made = PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens)
            self._splitters[embedder.identity] = made
        return self._splitters[embedder.identity]

    def sink(self, name: str, number: int = FIRST) -> Sink:
        """Give a sink as it is for one generation; one that cannot have several is the same for all."""
        if (name, FIRST) not in self._sinks:
            self._sinks[name, FIRST] = self._build_sink(name, FIRST)
        first = self._sinks[name, FIRST]
        if number == FIRST or not isinstance(first, GenerationSink):
            return first
        if (name, number) not in self._sinks:
            self._sinks[name, number] = self._build_sink(name, number)
        return self._sinks[name, number]

    def _build_sink(self, name: str, number: int) -> Sink:
        context = replace(self._context, name=ledger_name(name, number), generation=number)
        return self._opened.enter_context(closing(self.settings.sinks[name].build(context)))

    def generation_sink(self, name: str, number: int = FIRST) -> GenerationSink | None:
        """The same, if it can have several generations."""
        sink = self.sink(name, number)
        return sink if isinstance(sink, GenerationSink) else None

    def ledger(self, name: str, number: int) -> str:
        """Name a sink's ledger of a generation."""
        return ledger_name(name, number) if self.generation_sink(name) else name

    @contextmanager
    def parts(self, generation: Generation, *, is_target: bool = True) -> Iterator[Parts]:
        """Put together what a run on one generation needs; its vectors are open meanwhile, and no others.

        ConfigError if its embedder or its splitter cannot be had any more. A sink that has one collection only holds
        the target, so other generations are without it.
        """
        embedder = self.embedder(generation)
        splitter = self._splitter(embedder)
        if splitter.identity != generation.made.splitter:
            raise _gone(generation, f"its splitter was {generation.made.splitter}, this one is {splitter.identity}")
        sinks = [
            self.sink(name, generation.number)
            for name in self.settings.sinks
            if is_target or self.generation_sink(name)
        ]
        with closing(self.vectors(embedder)) as vectors:
            source_settings = canonical(self.settings.source)
            yield Parts(self.source, embedder, splitter, sinks, self.checkpoints, vectors, source_settings)

    def vectors(self, embedder: Embedder) -> SqliteVectors:
        """Open the vectors of an embedder. Open for writing, one at a time: see `sqlite_file`."""
        return SqliteVectors.open(
            self.settings.state_path,
            embedder_identity=embedder.identity,
            dimension=embedder.dimension,
            read_only=self.read_only,
        )

    # --- generations --------------------------------------------------------------------------

    def words(self, names: Iterable[str] | None = None) -> dict[str, int | None]:
        """Ask the sinks which generation readers get; those that have no generations are left out.

        One that cannot be asked now says what is remembered.
        """
        remembered = live_of(self.book.all())
        words: dict[str, int | None] = {}
        for name in self.settings.sinks if names is None else names:
            if sink := self.generation_sink(name):
                try:
                    words[name] = sink.live()
                except (TransientError, SinkError):
                    words[name] = remembered.number if remembered else None
        return words

    def generations(self, words: dict[str, int | None]) -> list[Generation]:
        """List the generations, with the live one by the sinks' word.

        A state that is older than the book has the first; one that was made again from the sinks has what they say.
        Its recipe is that of a ledger: one that the settings do not fit, if there is one.
        """
        known = self.book.all()
        if known:
            return with_live(known, believe(known, words), known[-1].created_at)
        number = max(filter(None, words.values()), default=FIRST)
        ledgers = [self.ledger(name, number) for name in self.settings.sinks]
        recipes = [self.checkpoints.recipe(it) for it in ledgers if self.checkpoints.holds_any(it)]
        made = [Made(it["embedder"], it["splitter"]) for it in recipes if "embedder" in it and "splitter" in it]
        if not made:
            return []
        asked = self.asked
        first = next((it for it in made if it != asked), asked)
        settings = canonical(self.settings.embedder) if first.embedder == asked.embedder else None
        return [Generation(number, State.LIVE, first, settings, created_at=0.0, switched_at=0.0)]

    def decide(self, generations: list[Generation], words: dict[str, int | None], *, accepted: bool) -> Decision:
        """Decide what a run does; see `generations`."""
        return self.decide_for(tuple(self.settings.sinks), generations, words, accepted=accepted)

    def decide_for(
        self, names: Iterable[str], generations: list[Generation], words: dict[str, int | None], *, accepted: bool
    ) -> Decision:
        """The same, as if there were only some of the sinks."""
        names = tuple(names)
        numbers = [it.number for it in generations]
        highest = max((*numbers, *filter(None, words.values())), default=0)
        decision = decide(
            generations,
            self.asked,
            accepted=accepted,
            beside=all(self.generation_sink(name) for name in names),
            # A state that knows none, and meets a collection, takes that over: with an empty ledger, it is filled anew.
            next_number=max(self.book.next_number(), highest + 1) if numbers else max(FIRST, highest),
            holding={n for n in numbers if any(self.checkpoints.holds_any(self.ledger(name, n)) for name in names)},
            prepared={n for n in numbers if any(self.checkpoints.incarnation(self.ledger(name, n)) for name in names)},
        )
        if decision.step in (Step.ASK, Step.BEGIN):
            decision = replace(decision, target=self._free_number(names, decision.target))
        return decision

    def _free_number(self, names: Iterable[str], first: int) -> int:
        """Find a number, from one on, under which no sink has anything: a state that was lost may have given it away.

        Where none of the next ones will do, something else is wrong, which the check of the first then says.
        """
        dimension = self.asked_embedder.dimension
        numbers = range(first, first + NUMBERS_TRIED)
        return next((n for n in numbers if all(self._is_free(name, n, dimension) for name in names)), first)

    def _is_free(self, name: str, number: int, dimension: int) -> bool:
        try:
            return self.sink(name, number).check(dimension) is None
        except (ConfigError, BusyError):
            return False
        except (TransientError, SinkError):
            return True  # as far as is known now

    def target(self, decision: Decision, generations: list[Generation], now: float) -> Generation:
        """Give the generation that the settings ask for, whether it is there already or not."""
        if decision.is_new:
            is_live = decision.step is Step.START
            settings = canonical(self.settings.embedder)
            state = State.LIVE if is_live else State.BUILDING
            return Generation(
                decision.target, state, self.asked, settings, created_at=now, switched_at=now if is_live else None
            )
        found = next(it for it in generations if it.number == decision.target)
        return replace(found, made=self.asked, embedder_settings=canonical(self.settings.embedder))

    def kept(self) -> list[Callable[[], AbstractContextManager[Parts]]]:
        """Give what opens the parts of each generation that a sync keeps in step, and whose embedder can be had.

        The one that the settings ask for comes first; where that is yet to be begun, the live one.
        """
        self.asked_embedder  # noqa: B018 - opened before the sinks, and closed after them
        words = self.words()
        there = {it.number: it for it in self.generations(words)}
        decision = self.decide(list(there.values()), words, accepted=False)
        if decision.step is not Step.ASK:
            there[decision.target] = self.target(decision, list(there.values()), 0.0)
        first = decision.live if decision.step is Step.ASK else decision.target
        numbers = dict.fromkeys([first, *decision.others])
        opens: list[Callable[[], AbstractContextManager[Parts]]] = []
        for number in numbers:
            generation = there[number or FIRST]
            with suppress(ConfigError):
                self.embedder(generation)
                opens.append(partial(self.parts, generation, is_target=number == first))
        return opens

    def read_generation(self, name: str) -> Reading:
        """Give what readers of a sink get: the live generation by the sink's own word, and the embedder that made it.

        ConfigError if that embedder cannot be had: an answer by another one would be no answer.
        """
        words = self.words([name])
        sink_live = words.get(name)
        generations = self.generations(words)
        remembered = live_of(generations)
        number = sink_live or (remembered.number if remembered else FIRST)
        found = next((it for it in generations if it.number == number), None)
        if found is not None:
            section = self.settings.embedder if self._is_asked(found.made.embedder) else self._rebuild(found)
            return Reading(number, self.embedder(found), section, self.sink(name, number))
        if generations and self.generation_sink(name):
            raise ConfigError(
                f'generation {number} is live in the sink "{name}", and this state does not know it; '
                "`vector-sync generations` lists those that it knows"
            )
        return Reading(number, self.asked_embedder, self.settings.embedder, self.sink(name, number))


def _gone(generation: Generation, why: str) -> ConfigError:
    return ConfigError(
        f"generation {generation.number}, made with {generation.made.embedder}, cannot be embedded: {why}"
    )


@contextmanager
def open_sync(settings: Settings, *, read_only: bool = False) -> Iterator[OpenSync]:
    """Open a sync's checkpoints, and whatever is asked for after that; all of it is closed in the reverse order."""
    with ExitStack() as opened:
        yield OpenSync(settings, opened, read_only=read_only)


def restored(stored: str, present: EmbedderSettings) -> EmbedderSettings:
    """Make a section from what `canonical` wrote, with the secrets of a present one of the same kind and addresses.

    Raises:
        ConfigError: its kind is not installed any more, or it lacks a secret.
    """
    written: dict[str, Any] = json.loads(stored)
    kind = str(written.get("kind", ""))
    model = find("embedders", kind)
    if not issubclass(model, EmbedderSettings):
        raise ConfigError(f'"{kind}" is no embedder any more')
    now: dict[str, Any] = json.loads(canonical(present))
    if type(present) is model and _addresses(now) == _addresses(written):
        secrets = type(present).model_fields.keys() - now.keys()
        written |= {name: getattr(present, name) for name in secrets}
    try:
        return model.model_validate(written)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, detail["loc"])) or kind for detail in error.errors(include_input=False))
        raise ConfigError(f'the settings of its "{kind}" are not accepted any more: {names}') from None


def _addresses(section: dict[str, Any]) -> dict[str, str]:
    """Pick the settings that name a service."""
    return {name: value for name, value in section.items() if isinstance(value, str) and "://" in value}


def build_context(settings: Settings, *, seed: int = 0, read_only: bool) -> BuildContext:
    """Tell a plug-in what it may know besides its own settings; a sink is also told its name."""
    return BuildContext(
        base_path=settings.base_path,
        state_path=settings.state_path,
        owner=settings.sync.name,
        seed=seed,
        read_only=read_only,
    )
