"""Models as people name them, resolved once to what they are at this moment.

`resolve("user/model@rev")` asks the Hub for the commit that `rev` stands for; from then on every file of
that model is read at that commit, and the commit is what recipes, statistics and cards record. A local
folder is resolved to its path and listing.

    ref = resolve("textattack/bert-base-uncased-imdb")
    ref.id                      # "textattack/bert-base-uncased-imdb@<commit>"
    ref.path("config.json")     # a file on this machine, downloaded where needed
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusehub.adapters import adapted
from fusehub.errors import BadRecipe, NotFound
from fusehub.hub import client, endpoint, hub_errors, is_offline
from fusehub.model_ref import ModelRef, RemoteFile, why_no_weights
from fusehub.reach import is_path, local_path
from fusehub.side_files import CHAT_TEMPLATES
from fusehub.verified import claimed
from fusehub.yaml_text import load_yaml, split_front_matter

logger = logging.getLogger(__name__)


def resolve(text: str, *, token: str | None = None) -> ModelRef:
    """The model that `text` names: `user/model`, `user/model@revision`, a link, or a local folder.

    `user/model/head` is the model in the subfolder `head` of a repo that holds several.

    `base+adapter` is a base with a LoRA adapter; an adapter alone is put on the base that its config names.

    Raises `NotFound`, `AccessDenied`, `Offline`, or `Incompatible` for an adapter that cannot be read exactly.
    """
    name = _plain(text)
    folder = _folder(name)
    if folder is not None:
        return _require_model(_on_its_base(_resolve_folder(name, folder), token))
    for plus in re.finditer(r"\+", name):
        base, adapter = name[: plus.start()], name[plus.end() :]
        if _may_be_model(base) and _may_be_model(adapter):
            return adapted(name, resolve(base, token=token), _resolve_adapter(adapter, token))
    whole, subfolder = _resolve_whole(name, token)
    if subfolder:
        return in_subfolder(whole, subfolder)
    return _require_model(_on_its_base(whole, token))


def resolve_all(text: str, *, token: str | None = None) -> dict[str, ModelRef]:
    """The models in the subfolders of a repo or folder, by the subfolder's name: heads of one merge.

    Raises `NotFound` where there are none, and what `resolve` raises.
    """
    name = _plain(text)
    folder = _folder(name)
    whole, subfolder = (_resolve_folder(name, folder), "") if folder is not None else _resolve_whole(name, token)
    if subfolder:
        raise NotFound(f"{name} names one model of several.", f"Give the repo alone: {whole.name}.")
    inside = _models_inside(whole)
    if not inside:
        raise NotFound(
            f"{whole.name} has no models in subfolders.", "Give a merge in which each expert keeps its head."
        )
    return {part: in_subfolder(whole, part) for part in inside}


def _resolve_whole(name: str, token: str | None) -> tuple[ModelRef, str]:
    """The repo that `name` names, and the subfolder in it ("" where none is named)."""
    if is_path(name) or name.partition("@")[0].count("/") > 2:
        raise NotFound(f"There is no folder {name}.", "Give a folder with config.json and weights, or user/model.")
    path, _, revision = name.partition("@")
    user, _, rest = path.partition("/")
    repo, _, subfolder = rest.partition("/")
    repo_id = f"{user}/{repo}" if repo else user
    return _resolve_remote(repo_id, revision, token), subfolder


def _folder(name: str) -> Path | None:
    """The folder of this machine that `name` means, if it means one."""
    folder = local_path(name)
    return folder if folder is not None and folder.is_dir() else None


def _may_be_model(text: str) -> bool:
    return _folder(text) is not None or re.fullmatch(r"\w[\w.-]*(/[\w.-]+){0,2}(@[\w./-]+)?", text) is not None


def _resolve_adapter(name: str, token: str | None) -> ModelRef:
    """The adapter that `name` names, by itself."""
    folder = _folder(name)
    if folder is not None:
        found = _resolve_folder(name, folder)
    else:
        repo_id, _, revision = name.partition("@")
        found = _resolve_remote(repo_id, revision, token)
    if "adapter_config.json" not in found.files:
        raise NotFound(f"{found.name} is no adapter: it has no adapter_config.json.", "Write BASE+ADAPTER.")
    return found


def _on_its_base(ref: ModelRef, token: str | None) -> ModelRef:
    """`ref`, or where it is an adapter alone, the adapter on the base that its config names."""
    if "adapter_config.json" not in ref.files or any(name.startswith("model") for name in ref.files):
        return ref
    said = ref.adapter_config
    base = said.get("base_model_name_or_path")
    if not base:
        raise NotFound(f"{ref.name} is an adapter that does not name its base.", f"Say it: BASE+{ref.name}.")
    try:
        found = _resolve_named_base(ref, base, said.get("revision"), token)
    except NotFound as error:
        raise NotFound(
            f"{ref.name} is an adapter on {base}, which cannot be found. {error.what}", f"Name it: BASE+{ref.name}."
        ) from error
    return adapted(ref.name, found, ref)


def _resolve_named_base(adapter: ModelRef, base: str, revision: str | None, token: str | None) -> ModelRef:
    """The base that an adapter's config names. What was downloaded is a stranger's word: it names no folder here."""
    named = f"{base}@{revision}" if revision else base
    if adapter.repo_id is None:
        return resolve(named, token=token)
    whole, subfolder = _resolve_whole(_plain(named), token)
    return in_subfolder(whole, subfolder) if subfolder else _require_model(_on_its_base(whole, token))


def short_names(refs: Iterable[ModelRef]) -> list[str]:
    """One short name a model, for tables and subfolders: without the user where that stays unambiguous."""
    refs = list(refs)
    tails = [re.sub(r"[^\w.-]+", "-", (ref.repo_id or ref.folder.resolve().name).rpartition("/")[2]) for ref in refs]
    names = []
    for ref, tail in zip(refs, tails, strict=True):
        full = (ref.repo_id or tail).replace("/", "--")
        name = tail if tails.count(tail) == 1 else full
        count = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{count + 1}" if name in names else name)
    return names


def _plain(text: str) -> str:
    """`text` without what surrounds a repo id in links: scheme, host, /tree/revision."""
    name = text.strip()
    for prefix in ("hf://", f"{endpoint()}/", "https://huggingface.co/", "https://hf.co/"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix).removeprefix("models/").rstrip("/")
            match = re.fullmatch(r"([^/]+/[^/]+)/(tree|blob|commit)/([^/]+)(/[^/]+)?(?:/.*)?", name)
            if not match:
                return name
            # .../tree/main/head is a folder of the repo; .../blob/main/config.json a file of it.
            inside = match[4] if match[2] == "tree" and match[4] else ""
            return f"{match[1]}{inside}@{match[3]}"
    if not name:
        raise NotFound("A model has an empty name.", "Write user/name, user/name@revision or a local folder.")
    return name


def _resolve_folder(name: str, folder: Path) -> ModelRef:
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    paths += sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))
    files = {path.relative_to(folder).as_posix(): RemoteFile(path.stat().st_size) for path in paths}
    return ModelRef(
        name=name, repo_id=None, commit=None, folder=folder, files=files, card=_card_of(folder / "README.md")
    )


def _resolve_remote(repo_id: str, revision: str, token: str | None) -> ModelRef:
    """A repo as the Hub has it; in offline mode, as the cache does."""
    return _resolve_cached(repo_id, revision) if is_offline() else _resolve_repo(repo_id, revision, token)


def _resolve_repo(repo_id: str, revision: str, token: str | None) -> ModelRef:
    name = f"{repo_id}@{revision}" if revision else repo_id
    with hub_errors(name):
        api = client(token)
        info = api.model_info(repo_id, revision=revision or None, files_metadata=True)
        if info.gated:
            # Everyone may see that it is there; its files may lie in the cache since somebody else asked for them.
            api.auth_check(info.id)
    files = {
        item.rfilename: RemoteFile(item.size or 0, item.lfs.sha256 if item.lfs else None, item.blob_id)
        for item in info.siblings or []
    }
    return ModelRef(
        name=name,
        repo_id=info.id,
        commit=info.sha,
        folder=None,
        files=files,
        card=info.card_data.to_dict() if info.card_data else {},
        gated=bool(info.gated),
        private=bool(info.private),
        downloads=info.downloads,
        token=token,
    )


def _resolve_cached(repo_id: str, revision: str) -> ModelRef:
    """In offline mode: the snapshot of that revision that lies in the cache; of no revision, the newest one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = f"{repo_id}@{revision}" if revision else repo_id
    with hub_errors(name):
        try:
            folder = Path(snapshot_download(repo_id, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            # What was downloaded by its commit alone, as we do, is no branch's in the cache.
            newest = None if revision else _newest_snapshot(repo_id)
            if newest is None:
                raise
            folder = newest
    local = _resolve_folder(name, folder)
    # The cache stores large files under their sha256, so it tells the hash without reading the file.
    claims = {key: claimed(folder / key) or "" for key in local.files}
    files = {
        key: RemoteFile(value.size, claims[key] if len(claims[key]) == 64 else None)
        for key, value in local.files.items()
    }
    return ModelRef(name=name, repo_id=repo_id, commit=folder.name, folder=folder, files=files, card=local.card)


def _newest_snapshot(repo_id: str) -> Path | None:
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE, f"models--{repo_id.replace('/', '--')}", "snapshots")
    return max(snapshots.glob("*"), key=lambda folder: folder.stat().st_mtime_ns, default=None)


def in_subfolder(whole: ModelRef, subfolder: str) -> ModelRef:
    """One of the models of a repo or folder that holds several, each in a subfolder."""
    if whole.folder is not None:
        folder = whole.folder / subfolder
        files = _resolve_folder("", folder).files if folder.is_dir() else {}
        inside = replace(whole, folder=folder, files=files, subfolder=subfolder if whole.repo_id else "")
    else:
        prefix = f"{subfolder}/"
        files = {path.removeprefix(prefix): file for path, file in whole.files.items() if path.startswith(prefix)}
        inside = replace(whole, files=files, subfolder=subfolder)
    if "config.json" not in files:
        raise NotFound(f"{whole.name} has no model in {subfolder}.", "Look into it for the names of its models.")
    return replace(inside, name=f"{whole.name}/{subfolder}")


def _require_model(ref: ModelRef) -> ModelRef:
    """`ref` if it has a config; else the error says what the place holds instead."""
    if "config.json" in ref.files:
        return ref
    if inside := _models_inside(ref):
        raise NotFound(
            f"{ref.name} holds several models ({', '.join(inside)}).",
            f"Name one: {ref.name.partition('@')[0]}/{inside[0]}",
        )
    raise NotFound(f"{ref.name} has no config.json.", why_no_weights(ref.files))


def _models_inside(ref: ModelRef) -> list[str]:
    """The subfolders of a repo or folder that hold a model."""
    if ref.folder is not None:
        return sorted(path.parent.name for path in ref.folder.glob("*/config.json"))
    return sorted(
        name.rpartition("/")[0] for name in ref.files if name.count("/") == 1 and name.endswith("/config.json")
    )


def _card_of(readme: Path) -> dict[str, Any]:
    """Front matter of a local card; empty where there is none, and with a warning where it cannot be read."""
    if not readme.is_file():
        return {}
    text, _ = split_front_matter(readme.read_text(encoding="utf-8", errors="replace"))
    try:
        front = load_yaml(text or "", f"The front matter of {readme}")
    except BadRecipe as error:
        logger.warning("%s What it says of licence and base is not known.", error.what)
        return {}
    return front if isinstance(front, dict) else {}
