"""Models on the Hub that could go into a merge, and where their statistics are.

    for model in find("sentiment", base="google-bert/bert-base-uncased"):
        print(model.id, model.downloads, model.statistics_at)

Statistics lie in the model's own repo under `fusehub/`, or in a companion repo that is tagged `fusehub-statistics`
and names the model as its `base_model`; those that others than its owner made are told apart. Whether they are of
these very weights is checked when they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from fusehub.hub.client import client, hub_errors
from fusehub.hub.licenses import license_of
from fusehub.hub.names import plain, readings
from fusehub.hub.origins import base_of_merge, named_origins, names_parents
from fusehub.hub.repos import RECIPE_TAG
from fusehub.models.tasks import TASKS
from fusehub.models.tensor_files import DTYPES
from fusehub.statistics.file import FILENAME, INDEX_FILENAME
from fusehub.statistics.sources import FOLDER, TAG, is_same_owner

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.hf_api import ExpandModelProperty_T

ANY_TASK = "any"
Sort = Literal["downloads", "last_modified"]
# Where few models have statistics, most that are listed are passed over; this bounds how many are looked at.
_MOST = 1000
_FIELDS: list[ExpandModelProperty_T] = [
    *("cardData", "downloads", "gated", "lastModified", "likes", "pipeline_tag", "private", "safetensors"),
    *("siblings", "tags"),
]


@dataclass(frozen=True)
class FoundModel:
    """One model of the Hub.

    Attributes:
        id: `user/name`.
        task: The Hub's name of its task.
        base: The model that its card says it was trained from; of a merge, that of the models in it.
        downloads: How often it was downloaded, as the Hub counts.
        likes: How many like it.
        license: The Hub's identifier of its license.
        gated: Whether its owner must be asked first.
        private: Whether only its owner sees it.
        updated: When it was last changed.
        parameters: How many numbers it has, where the Hub knows.
        statistics_at: The repo that holds its statistics: its own, or its owner's companion.
        offered_at: Repos of others that say they hold some, which a merge uses only where they are named.
        parents: The models that its card says are in it, where it is a merge.
        weight_bytes: How large its weights are, in bytes, where the Hub knows.

    Examples:
        >>> found = fusehub.find("expert-1")[0]
        >>> found.id, found.base, found.statistics_at
        ('user/expert-1', 'user/base', 'user/expert-1')
    """

    id: str
    task: str | None
    base: str | None
    downloads: int
    likes: int
    license: str | None
    gated: bool
    private: bool
    updated: datetime | None
    parameters: int | None
    statistics_at: str | None = None
    offered_at: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    weight_bytes: int | None = None

    @property
    def statistics(self) -> bool:
        """Whether its owner has published its statistics."""
        return self.statistics_at is not None

    def to_dict(self) -> dict[str, Any]:
        """The model as plain data.

        Returns:
            Each attribute by its name, `statistics` among them; `updated` as ISO 8601 has it.
        """
        updated = self.updated.isoformat() if self.updated else None
        return asdict(self) | {"updated": updated, "statistics": self.statistics}


def find(
    query: str | None = None,
    *,
    base: str | None = None,
    task: str | None = None,
    with_statistics: bool = False,
    author: str | None = None,
    limit: int = 20,
    sort: Sort = "downloads",
    token: bool | str | None = None,
) -> list[FoundModel]:
    """The first `limit` models that match all that is asked for: the most downloaded, or those changed last.

    Args:
        query: Words of the name.
        base: The model that they were fine-tuned from.
        task: One of the Hub's, or `any` for all; those that FuseHub can merge where it is not said.
        with_statistics: Only models whose owners have published statistics.
        author: Whose models.
        limit: How many at most.
        sort: By what, largest or latest first: `downloads` or `last_modified`.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.

    Returns:
        The models, in that order.

    Raises:
        NotFound: There is no such base.
        Offline: The Hub cannot be reached.

    Examples:
        >>> [model.id for model in fusehub.find(base="user/base", with_statistics=True)]
        ['user/expert-1', 'user/expert-2']
    """
    api = client(token)
    tags: Sequence[str | None] = _base_tags(api, base) if base else [None]
    tasks: Sequence[str | None] = [None] if task == ANY_TASK else [task] if task else list(TASKS)
    with hub_errors("the list of models"):
        companions = _companions(api)
        found: dict[str, FoundModel] = {}
        for tag in tags:
            for one in tasks:
                infos = api.list_models(
                    search=query, author=author, filter=tag, pipeline_tag=one, sort=sort, expand=_FIELDS
                )
                models = (_model(info, companions) for info in islice(infos, _MOST) if _is_model(info))
                wanted = (model for model in models if model.statistics or not with_statistics)
                found |= {model.id: model for model in islice(wanted, limit)}
        if with_statistics:
            found |= {model.id: model for model in _of_companions(api, companions, found, query, author, tags, tasks)}
    ordered = sorted(found.values(), key=lambda model: (-model.downloads, model.id))
    if sort == "last_modified":
        ordered.sort(key=lambda model: model.updated.timestamp() if model.updated else 0.0, reverse=True)
    listed = ordered[:limit]
    # The Hub is asked about the models in a merge for what is shown alone.
    return [replace(model, base=base_of_merge(model.parents, api)) if model.parents else model for model in listed]


def _base_tags(api: HfApi, base: str) -> list[str]:
    """Tags that fine-tunes of `base` have: cards name it as it is called now, or as it was called once."""
    # Cards name repos, not the folders in them.
    name = readings(plain(base))[0].repo_id
    with hub_errors(name):
        own = api.model_info(name).id
    return [f"base_model:{name}" for name in dict.fromkeys([own, name])]


def _companions(api: HfApi) -> dict[str, list[str]]:
    """Model -> the repos that hold statistics of it alone, the most downloaded first."""
    found: dict[str, list[str]] = {}
    for info in islice(api.list_models(filter=TAG, sort="downloads", expand=_FIELDS), _MOST):
        for base in _bases(info):
            if base != info.id and _holds_statistics(info):
                found.setdefault(base, []).append(info.id)
    return found


def _of_companions(
    api: HfApi,
    companions: dict[str, list[str]],
    known: Iterable[str],
    query: str | None,
    author: str | None,
    tags: Sequence[str | None],
    tasks: Sequence[str | None],
) -> Iterator[FoundModel]:
    """Models whose owner has a companion repo and that match, however far down the list of all models they are."""
    from huggingface_hub.errors import RepositoryNotFoundError

    for model_id, repos in companions.items():
        if model_id in known or not any(is_same_owner(repo, model_id) for repo in repos):
            continue
        if query and not all(word in model_id.lower() for word in query.lower().split()):
            continue
        if author and model_id.partition("/")[0].lower() != author.lower():
            continue
        try:
            info = api.model_info(model_id, expand=_FIELDS)
        except RepositoryNotFoundError:
            continue
        if (None in tags or set(tags) & set(info.tags or [])) and (None in tasks or info.pipeline_tag in tasks):
            yield _model(info, companions)


def _model(info: ModelInfo, companions: dict[str, list[str]]) -> FoundModel:
    repos = companions.get(info.id, [])
    bases, is_merge = _bases(info), names_parents(_card(info))
    own = [info.id] * _holds_statistics(info) + [repo for repo in repos if is_same_owner(repo, info.id)]
    return FoundModel(
        id=info.id,
        task=info.pipeline_tag,
        base=next(iter(bases), None) if not is_merge else None,
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        license=license_of(_card(info)),
        gated=bool(info.gated),
        private=bool(info.private),
        updated=info.last_modified,
        parameters=info.safetensors.total if info.safetensors else None,
        statistics_at=next(iter(own), None),
        offered_at=tuple(repo for repo in repos if repo not in own),
        parents=tuple(bases) if is_merge else (),
        weight_bytes=_weight_bytes(info),
    )


def _weight_bytes(info: ModelInfo) -> int | None:
    """By the counts that the Hub has of each number format; None where it has none, or one that is not known here."""
    counts = dict(info.safetensors.parameters) if info.safetensors else {}
    if not counts or not counts.keys() <= DTYPES.keys():
        return None
    return sum(count * DTYPES[dtype][1] for dtype, count in counts.items())


def _bases(info: ModelInfo) -> list[str]:
    """Models that this one says it comes from."""
    return named_origins(_card(info))


def _card(info: ModelInfo) -> dict[str, Any]:
    return info.card_data.to_dict() if info.card_data else {}


def _holds_statistics(info: ModelInfo) -> bool:
    names = [f"{FOLDER}/{name}" for name in (FILENAME, INDEX_FILENAME)]
    return any(file.rfilename in names for file in info.siblings or [])


def _is_model(info: ModelInfo) -> bool:
    """Companion repos hold statistics alone, and others a recipe."""
    return not {TAG, RECIPE_TAG} & set(info.tags or []) or any(
        file.rfilename == "config.json" for file in info.siblings or []
    )
