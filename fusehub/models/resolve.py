"""Models as people name them, resolved once to what they are at this moment.

`resolve("user/model@rev")` asks the Hub for the commit that `rev` stands for; from then on every file of
that model is read at that commit, and the commit is what recipes, statistics and cards record. A local
folder is resolved to its path and listing.

    ref = resolve("textattack/bert-base-uncased-imdb")
    ref.id                      # "textattack/bert-base-uncased-imdb@<commit>"
    ref.path("config.json")     # a file on this machine, downloaded where needed
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusehub.errors import BadRecipe, NotFound, Offline, shortly
from fusehub.hub.access import STORED, Access
from fusehub.hub.cache import snapshot_of
from fusehub.hub.client import hub_errors
from fusehub.hub.names import Place, may_be_repo, plain, readings
from fusehub.hub.verified import claimed
from fusehub.models.adapters.ref import CONFIG, adapted, is_model_file, on_an_adapter
from fusehub.models.ref import ModelRef, RemoteFile, why_no_weights
from fusehub.models.side_files import CHAT_TEMPLATES
from fusehub.utils.reach import is_path, local_path
from fusehub.utils.side_by_side import side_by_side
from fusehub.utils.untrusted.limits import YAML_BYTES
from fusehub.utils.untrusted.yaml_text import load_yaml, split_front_matter


def resolve(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ModelRef:
    """The model that `model` names, at the commit of this moment.

    Args:
        model: `user/model`, `user/model@revision`, a link, or a local folder. `user/model/head` is the model in a
            folder of a repo that holds several. `base+adapter` is a base with a LoRA adapter; an adapter alone is put
            on the base that its config names.
        revision: A branch, a tag or a commit, where the name does not say it.
        subfolder: The folder of the repo that the model is in, where the name does not say it.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        The model, which every function takes in the place of a name.

    Raises:
        NotFound: There is no such model.
        AccessDenied: It is not for everyone, and the token is not of somebody who may read it.
        Offline: The Hub does not answer, or may not be asked and the cache does not have it.
        Incompatible: An adapter cannot be read exactly.

    Examples:
        >>> fusehub.resolve("user/expert-1", revision="main").repo_id
        'user/expert-1'
    """
    access = Access(token, cache_dir, local_files_only)
    return ref_of(model, access, revision=revision, subfolder=subfolder)


def ref_of(
    model: str | os.PathLike[str] | ModelRef,
    access: Access = STORED,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
) -> ModelRef:
    """What functions of the package take as a model: a name or a folder, which is resolved, or what was resolved.

    Raises `NotFound` for anything else, and what `resolve` raises.
    """
    if isinstance(model, ModelRef):
        if revision or subfolder:
            raise NotFound(f"{model.id} is resolved already.", "Say revision and subfolder where it is resolved.")
        return model.asked_by(access)
    if not isinstance(model, str | os.PathLike):
        raise NotFound(f"{shortly(model)} names no model.", "Give user/name, a folder, or what `resolve` returned.")
    return _resolve(os.fspath(model), access, revision, subfolder)


def refs_of(models: Iterable[str | os.PathLike[str] | ModelRef], access: Access = STORED) -> list[ModelRef]:
    """The same of several models, the Hub asked of all side by side."""
    return side_by_side(lambda model: ref_of(model, access), models)


def _resolve(
    text: str,
    access: Access,
    revision: str | None = None,
    subfolder: str | None = None,
    named_by: ModelRef | None = None,
) -> ModelRef:
    """What `text` means; `named_by` is the adapter that names it as its base, if any does."""
    name, text = _plain(text), text.strip()
    folder = _folder(text)
    if folder is not None:
        if revision:
            raise NotFound(f"{text} is a folder of this machine, which has no revisions.", "Leave out the revision.")
        whole = _resolve_folder(text, folder, access)
        inside = _inside(whole, subfolder, f"{text}/{subfolder}") if subfolder else whole
        return _require_model(_on_its_base(inside, named_by))
    for plus in re.finditer(r"\+", text):
        base, adapter = text[: plus.start()].strip(), text[plus.end() :].strip()
        if _may_be_model(base) and _may_be_model(adapter):
            if revision or subfolder:
                raise NotFound(
                    f"{text} names two models: which of them is at {revision or subfolder}?",
                    "Say it in their names: BASE@REVISION+ADAPTER@REVISION.",
                )
            found = _resolve_adapter(adapter, access)
            return adapted(f"{_plain(base)}+{_plain(adapter)}", _resolve(base, access, named_by=found), found)
    return _require_model(_on_its_base(_resolve_place(name, access, revision, subfolder), named_by))


def resolve_all(
    model: str | os.PathLike[str],
    access: Access = STORED,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
) -> dict[str, ModelRef]:
    """The models in the subfolders of a repo or folder (or of a `subfolder` of it), by the subfolder's name: heads of
    one merge.

    Raises `NotFound` where there are none, and what `resolve` raises.
    """
    name = _plain(os.fspath(model))
    folder = _folder(name)
    if folder is not None and revision:
        raise NotFound(f"{name} is a folder of this machine, which has no revisions.", "Leave out the revision.")
    if folder is not None:
        whole = _resolve_folder(name, folder, access)
        whole = _inside(whole, subfolder, f"{name}/{subfolder}") if subfolder else whole
    else:
        whole = _resolve_place(name, access, revision)
    if whole.subfolder:
        raise NotFound(f"{name} names one model of several.", f"Give the repo alone: {whole.repo_id}.")
    inside = _models_inside(whole)
    if not inside:
        raise NotFound(
            f"{whole.name} has no models in subfolders.", "Give a merge in which each expert keeps its head."
        )
    return {part: in_subfolder(whole, part) for part in inside}


def _places(name: str, revision: str | None, subfolder: str | None) -> list[Place]:
    """Every place that a name, and what was said beside it, may mean."""
    places = readings(name)
    if not revision and not subfolder:
        return places
    at = next((place for place in places if not place.subfolder), places[0])
    if (revision and at.revision) or (subfolder and at.subfolder):
        raise NotFound(
            f"{name} says itself which {'revision' if revision and at.revision else 'folder'} is meant.",
            "Say it once: in the name, or beside it.",
        )
    return [replace(at, revision=revision or at.revision, subfolder=(subfolder or at.subfolder).strip("/"))]


def _resolve_place(name: str, access: Access, revision: str | None = None, subfolder: str | None = None) -> ModelRef:
    """What lies at the place at the Hub that `name` means: a repo, or a folder of one."""
    if is_path(name):
        raise NotFound(f"There is no folder {name}.", "Give a folder with config.json and weights, or user/model.")
    places = _places(name, revision, subfolder)
    if any(part in (".", "..") for place in places for part in place.subfolder.split("/")):
        raise NotFound(f"{name} leads out of its repo.", "Write user/model/folder.")
    for place in places:
        try:
            whole = _resolve_remote(place.repo_id, place.revision, access)
        except (NotFound, Offline) as error:
            # Which part of it is the revision is told by what there is.
            missing = error
            continue
        return _inside(whole, place.subfolder, str(place)) if place.subfolder else whole
    if places[0].subfolder and "@" not in name and not subfolder:
        raise missing.retold(f"There is no folder {name} here, and {missing.what}", kind=NotFound)
    raise missing


def repo_of(name: str, access: Access = STORED) -> ModelRef:
    """What lies in the repo (or a folder of it) at the Hub that `name` means, be it a model or not."""
    return _resolve_place(_plain(name), access)


def _folder(name: str) -> Path | None:
    """The folder of this machine that `name` means, if it means one."""
    folder = local_path(name)
    return folder if folder is not None and folder.is_dir() else None


def _may_be_model(text: str) -> bool:
    return _folder(text) is not None or may_be_repo(text)


def _resolve_adapter(name: str, access: Access) -> ModelRef:
    """The adapter that `name` names, by itself."""
    folder = _folder(name)
    found = _resolve_folder(name, folder, access) if folder is not None else _resolve_place(_plain(name), access)
    if CONFIG not in found.files:
        raise NotFound(f"{found.name} is no adapter: it has no adapter_config.json.", "Write BASE+ADAPTER.")
    return found


def _on_its_base(ref: ModelRef, named_by: ModelRef | None = None) -> ModelRef:
    """`ref`, or where it is an adapter alone, the adapter on the base that its config names.

    Where another adapter named it, its base is not looked for: an adapter may name itself.
    """
    if CONFIG not in ref.files or any(is_model_file(name) for name in ref.files if name != "config.json"):
        return ref
    said = ref.adapter_config
    base = said.get("base_model_name_or_path")
    if not base:
        raise NotFound(f"{ref.name} is an adapter that does not name its base.", f"Say it: BASE+{ref.name}.")
    if named_by is not None:
        raise on_an_adapter(named_by.name)
    try:
        found = _resolve_named_base(ref, base, said.get("revision"))
    except NotFound as error:
        raise NotFound(
            f"{ref.name} is an adapter on {base}, which cannot be found. {error.what}", f"Name it: BASE+{ref.name}."
        ) from error
    return adapted(ref.name, found, ref)


def _resolve_named_base(adapter: ModelRef, base: str, revision: str | None) -> ModelRef:
    """The base that an adapter's config names. What was downloaded is a stranger's word: it names no folder here."""
    named = f"{base}@{revision}" if revision else base
    if adapter.repo_id is None:
        return _resolve(named, adapter.access, named_by=adapter)
    return _require_model(_on_its_base(_resolve_place(_plain(named), adapter.access), adapter))


def _plain(text: str) -> str:
    name = plain(text)
    if not name:
        raise NotFound("A model has an empty name.", "Write user/name, user/name@revision or a local folder.")
    return name


def _resolve_folder(name: str, folder: Path, access: Access = STORED) -> ModelRef:
    card, trouble = _card_of(folder / "README.md")
    return ModelRef(
        name=name,
        repo_id=None,
        commit=None,
        folder=folder,
        files=_listed(folder),
        card=card,
        card_trouble=trouble,
        access=access,
    )


def _listed(folder: Path) -> dict[str, RemoteFile]:
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    paths += sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))
    return {path.relative_to(folder).as_posix(): RemoteFile(path.stat().st_size) for path in paths}


def _resolve_remote(repo_id: str, revision: str, access: Access) -> ModelRef:
    """A repo as the Hub has it; where it may not be asked, as the cache does."""
    return (_resolve_cached if access.is_offline else _resolve_repo)(repo_id, revision, access)


def _resolve_repo(repo_id: str, revision: str, access: Access) -> ModelRef:
    name = f"{repo_id}@{revision}" if revision else repo_id
    with hub_errors(name):
        info = access.info(repo_id, revision)
        access.require_readable(info)
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
        access=access,
    )


def _resolve_cached(repo_id: str, revision: str, access: Access) -> ModelRef:
    """Without the Hub: the snapshot of that revision that lies in the cache; of no revision, the newest one."""
    name = f"{repo_id}@{revision}" if revision else repo_id
    folder = snapshot_of(repo_id, revision, access)
    local = _resolve_folder(name, folder, access)
    return replace(local, repo_id=repo_id, commit=folder.name, files=_cached(folder))


def _cached(folder: Path) -> dict[str, RemoteFile]:
    """What lies in a folder of the cache, which stores large files under their sha256: it is told without reading."""
    files = _listed(folder)
    claims = {name: claimed(folder / name) or "" for name in files}
    return {
        name: RemoteFile(file.size, claims[name] if len(claims[name]) == 64 else None) for name, file in files.items()
    }


def in_subfolder(whole: ModelRef, subfolder: str) -> ModelRef:
    """One of the models of a repo or folder that holds several, each in a subfolder."""
    found = _inside(whole, subfolder, f"{whole.name}/{subfolder}")
    if "config.json" not in found.files:
        raise NotFound(f"{whole.name} has no model in {subfolder}.", "Look into it for the names of its models.")
    return found


def _inside(whole: ModelRef, subfolder: str, name: str) -> ModelRef:
    """The folder `subfolder` of a repo or folder, with whatever lies in it."""
    if whole.folder is not None:
        folder = whole.folder / subfolder
        there = _cached if whole.repo_id else _listed
        files = there(folder) if folder.is_dir() else {}
        inside = replace(whole, folder=folder, files=files, subfolder=subfolder if whole.repo_id else "")
    else:
        prefix = f"{subfolder}/"
        files = {path.removeprefix(prefix): file for path, file in whole.files.items() if path.startswith(prefix)}
        inside = replace(whole, files=files, subfolder=subfolder)
    if not files:
        known = ", ".join(_models_inside(whole))
        raise NotFound(
            f"{whole.name} has nothing in {subfolder}" + (f"; it holds {known}." if known else "."),
            "Look into it for the names of its models.",
        )
    return replace(inside, name=name)


def _require_model(ref: ModelRef) -> ModelRef:
    """`ref` if it has a config; else the error says what the place holds instead."""
    if "config.json" in ref.files:
        return ref
    if inside := _models_inside(ref):
        raise NotFound(
            f"{ref.name} holds several models ({', '.join(inside)}).",
            f"Name one: {_within(ref, inside[0])}",
        )
    raise NotFound(f"{ref.name} has no config.json.", why_no_weights(ref.files))


def _within(ref: ModelRef, part: str) -> str:
    """How the model in a folder of `ref` is named."""
    if ref.repo_id is None:
        return f"{ref.name}/{part}"
    path, at, revision = ref.name.partition("@")
    return f"{path}/{part}{at}{revision}"


def _models_inside(ref: ModelRef) -> list[str]:
    """The subfolders of a repo or folder that hold a model."""
    if ref.folder is not None:
        return sorted(path.parent.name for path in ref.folder.glob("*/config.json"))
    return sorted(
        name.rpartition("/")[0] for name in ref.files if name.count("/") == 1 and name.endswith("/config.json")
    )


def _card_of(readme: Path) -> tuple[dict[str, Any], str]:
    """Front matter of a local card, empty where there is none; and why it cannot be read, where it cannot."""
    if not readme.is_file():
        return {}, ""
    with readme.open(encoding="utf-8", errors="replace") as file:
        text = file.read(YAML_BYTES)
        cut = bool(file.read(1))
    front, _ = split_front_matter(text)
    if front is None and cut and text.removeprefix("\ufeff").startswith("---"):
        return {}, f"The front matter of {readme} does not end within {YAML_BYTES:,} characters."
    try:
        front = load_yaml(front or "", f"The front matter of {readme}")
    except BadRecipe as error:
        return {}, error.what
    if isinstance(front, dict | None):
        return front or {}, ""
    return {}, f"The front matter of {readme} is no table of keys."
