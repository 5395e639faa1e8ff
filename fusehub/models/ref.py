"""A model at one commit, or in a folder: its listing, its card, and where each of its files lies on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from fusehub.errors import BadFile, NotFound, shortly
from fusehub.hub.access import STORED, Access
from fusehub.hub.answers import Answers
from fusehub.hub.client import endpoint, hub_errors
from fusehub.hub.verified import fetch, in_cache
from fusehub.models.side_files import side_files
from fusehub.utils.frozen import freeze
from fusehub.utils.untrusted.documents import check_adapter_config, check_config, read_object
from fusehub.utils.untrusted.limits import SHARDS

# How the file begins that git keeps in the place of a large one.
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model: its size in bytes, and the hash that the Hub tells: sha256 of large files, else git's."""

    size: int
    sha256: str | None = None
    git_oid: str | None = None


class Parts(NamedTuple):
    """What an adapted model is made of."""

    base: ModelRef
    adapter: ModelRef


@dataclass(frozen=True)
class ModelRef:
    """A model resolved to one commit of a repo, or to a local folder: see `fusehub.resolve`.

    Attributes:
        name: How tables call it.
        repo_id: The repo, `user/model`; None for a folder.
        commit: The repo's commit.
        folder: Where it is, if on this machine as a whole.
        files: Its listing, of `subfolder` alone where the model is one of several in a repo.
        card: The front matter of its card.
        gated: Whether its owner decides who may read it.
        private: Whether only its owner sees it.
        downloads: How often it was downloaded, as the Hub counts.
        subfolder: The folder of the repo that it is in.
        access: How its files are asked of the Hub.
        card_trouble: Why the front matter of the card cannot be read, where it cannot.

    Examples:
        >>> model = fusehub.resolve("user/expert-1")
        >>> model.config["model_type"], model.path("config.json").name
        ('bert', 'config.json')
    """

    name: str
    repo_id: str | None
    commit: str | None
    folder: Path | None
    files: Mapping[str, RemoteFile]
    card: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    downloads: int | None = None
    subfolder: str = ""
    access: Access = field(default=STORED, repr=False, compare=False)
    card_trouble: str = ""

    def __post_init__(self) -> None:
        freeze(self, "files")
        # Strangers write cards, of any depth: what stands in one is left as it is.
        object.__setattr__(self, "card", MappingProxyType(self.card))

    def asked_by(self, access: Access) -> Self:
        """This model, read in another way.

        Args:
            access: Where its files are kept, and whether only those that are there already are read. Its token is not
                taken: the model keeps its own.

        Returns:
            The same model at the same commit.
        """
        own = self.access
        is_local = own.local_files_only or access.local_files_only
        # What one token may read says nothing of another.
        answers = access.answers if own.token == access.token else Answers()
        if own.answers is not None and answers is not None:
            answers.learn_commits(own.answers)
        return replace(self, access=Access(own.token, access.cache_dir or own.cache_dir, is_local, answers))

    @property
    def id(self) -> str:
        """`user/model@commit`, or the folder: what names exactly these weights."""
        if self.repo_id is None:
            return str(self.folder)
        return "/".join(filter(None, (self.repo_id, self.subfolder))) + f"@{self.commit}"

    @property
    def own_name(self) -> str:
        """`user/model`, or what the folder is called, whatever way it was named."""
        if self.repo_id is not None:
            return self.repo_id
        assert self.folder is not None  # What is in no repo is in a folder.
        return self.folder.resolve().name

    @property
    def url(self) -> str | None:
        """Address of the model's page at this commit; None for a folder."""
        if self.repo_id is None:
            return None
        return "/".join(filter(None, (endpoint(), self.repo_id, "tree", self.commit, self.subfolder)))

    def path(self, filename: str) -> Path:
        """Where a file of the model lies on this machine; it is downloaded at this commit if it must be.

        Args:
            filename: One of `files`.

        Returns:
            Its path.

        Raises:
            NotFound: The model has no such file.
            BadFile: Its bytes are not those that the Hub has.

        Examples:
            >>> fusehub.resolve("user/expert-1").path("config.json").name
            'config.json'
        """
        if filename not in self.files:
            raise NotFound(f"{self.name} has no file {filename}.", "Is it a complete model repo or folder?")
        told = self.files[filename]
        claim = told.sha256 or told.git_oid
        if self.folder is not None:
            path = in_cache(self.folder / filename, self.name, claim)
            return _no_pointer(path, self.name, told.size)
        assert self.repo_id is not None  # What is in no folder is in a repo.
        with hub_errors(self.name):
            inside = self.inside(filename)
            return fetch(
                self.repo_id, inside, revision=self.commit, access=self.access, name=self.name, claim=claim,
                size=told.size,
            )  # fmt: skip

    def inside(self, filename: str) -> str:
        """Where a file of the model lies in its repo.

        Args:
            filename: One of `files`.

        Returns:
            Its name there, with the subfolder of the model before it.
        """
        return f"{self.subfolder}/{filename}" if self.subfolder else filename

    def json(self, filename: str) -> dict[str, Any]:
        """The JSON object in a file of the model.

        Args:
            filename: One of `files`.

        Returns:
            The object.

        Raises:
            NotFound: The model has no such file.
            BadFile: It holds something else.

        Examples:
            >>> fusehub.resolve("user/expert-1").json("config.json")["model_type"]
            'bert'
        """
        return read_object(self.path(filename), self.name)

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json as a dict. Raises `BadFile` where a value in it is of a kind that it cannot have."""
        return check_config(self.json("config.json"), self.name)

    @property
    def adapter_config(self) -> dict[str, Any]:
        """What adapter_config.json says. Raises `BadFile` like `config`."""
        return check_adapter_config(self.json("adapter_config.json"), self.name)

    @property
    def parts(self) -> Parts | None:
        """The base and the adapter on it; None of a model that is whole by itself."""
        return None

    @property
    def trained_on_another(self) -> str | None:
        """The base that an adapter says it was trained on, where it is put on another one."""
        return None

    def adapter_files(self) -> list[str]:
        """The files of an adapter that decide the weights."""
        return []

    def owner(self, filename: str) -> ModelRef:
        """The model that holds a file.

        Args:
            filename: One of `files`.

        Returns:
            The model itself; of an adapter on a base, one of both.
        """
        return self

    def hashed_files(self) -> list[str]:
        """The files whose sha256 together name these weights.

        Returns:
            Their names; with an adapter, its file and its config are among them.
        """
        return self.weight_files()

    @property
    def tokenizer_ref(self) -> ModelRef:
        """Where the tokenizer is."""
        return self

    def weight_files(self) -> list[str]:
        """The files that hold the weights.

        Returns:
            Names of safetensors files if there are any, else of pytorch_model*.bin; sorted.

        Raises:
            NotFound: There are none, or one is not there that the index names.
            BadFile: The index is none.

        Examples:
            >>> fusehub.resolve("user/expert-1").weight_files()
            ['model.safetensors']
        """
        for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            single = index.removesuffix(".index.json")
            if single in self.files:
                return [single]
            if index in self.files:
                return self._shards(index)
        raise NotFound(
            f"{self.name} holds no weights (model.safetensors or pytorch_model.bin).",
            why_no_weights(self.files),
        )

    def _shards(self, index: str) -> list[str]:
        """The files that an index names. Raises `BadFile` where it is none, `NotFound` where one is not there."""
        said = self.json(index)
        if not isinstance(said.get("metadata") or {}, dict):
            raise BadFile(
                f"{self.name}: metadata in {index} is {shortly(said['metadata'])}, and no table.",
                "Write it again with transformers' save_pretrained, or name a repo that is complete.",
            )
        files = said.get("weight_map")
        if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
            raise BadFile(
                f"{self.name}: {index} has no weight_map, which says what file each tensor is in.",
                "Write it again with transformers' save_pretrained, or name a repo that is complete.",
            )
        shards = sorted(set(files.values()))
        if len(shards) > SHARDS:
            raise BadFile(
                f"{self.name}: {index} names {len(shards):,} files, and no more than {SHARDS:,} are read.",
                "Save the model in larger shards.",
            )
        if lacking := [name for name in shards if name not in self.files]:
            raise NotFound(
                f"{self.name} has no {lacking[0]}, which {index} names"
                + (f" (nor {len(lacking) - 1} more)." if len(lacking) > 1 else "."),
                "Is the upload or the download complete?",
            )
        return shards

    def side_files(self) -> list[str]:
        """What lies beside config and weights and is a part of the model.

        Returns:
            Names of its tokenizer, processor and generation files, sorted.
        """
        return side_files(self.files)

    def download(self, *, weights: bool = True) -> Path:
        """A folder on this machine with the model in it.

        Args:
            weights: Whether the weights must be in it too.

        Returns:
            The model's own folder, or that of its commit in the cache.

        Raises:
            NotFound: The model has no weights.
            BadFile: Bytes are not those that the Hub has.

        Examples:
            >>> folder = fusehub.resolve("user/expert-1").download(weights=False)
            >>> (folder / "config.json").exists()
            True
        """
        wanted = [name for name in ("config.json", *self.side_files()) if name in self.files]
        if weights:
            wanted += self.weight_files()
            wanted += [name for name in self.files if name.endswith(".index.json")]
        paths = [self.path(name) for name in dict.fromkeys(wanted)]
        return self.folder if self.folder is not None else paths[0].parent


def _no_pointer(path: Path, name: str, size: int) -> Path:
    """`path`, unless it holds what git leaves of a large file that was not fetched (their pointers are short)."""
    if size < 1024 and path.is_file():
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise BadFile(
                    f"{name}: {path.name} is a pointer of Git LFS, not the file itself.",
                    "Fetch the large files: `git lfs pull` in that folder.",
                )
    return path


def why_no_weights(files: Iterable[str]) -> str:
    """What to do about a place that holds these files, and no model."""
    names = list(files)
    if "adapter_config.json" in names:
        return "It is an adapter: name its base too, BASE+ADAPTER."
    if any(name.endswith(".gguf") for name in names):
        return "It holds GGUF files, which are quantised: use the repo with the original weights."
    return "Give a repo or folder that `from_pretrained` can load."


def short_names(refs: Iterable[ModelRef], *, folders: bool = False) -> list[str]:
    """One short name a model, for tables, or for subfolders: without the user where that stays unambiguous."""
    refs = list(refs)
    places = [ref.subfolder or ref.own_name for ref in refs]
    tails = [re.sub(r"[^\w.-]+", "-", place.rpartition("/")[2]) for place in places]
    names: list[str] = []
    for ref, tail in zip(refs, tails, strict=True):
        full = "/".join(filter(None, (ref.repo_id, ref.subfolder))) or tail
        full = full.replace("/", "--") if folders else full
        name = tail if tails.count(tail) == 1 else full
        count = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{count + 1}" if name in names else name)
    return names
