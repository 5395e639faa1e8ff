"""The card of a repo of statistics: of which weights they are, of what data, and what they can give away of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusehub.data.tables.hub_datasets import pinned_dataset
from fusehub.hub.client import endpoint
from fusehub.publishing.cards.front_matter import card_of
from fusehub.statistics.settled import error_in, error_words
from fusehub.utils.markdown import link, md, render, without_paths

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def statistics_card(metadata: Mapping[str, Any], model: str, commit: str, *, repo_id: str | None = None) -> ModelCard:
    """The card of the companion repo `repo_id`, whose statistics `metadata` describes.

    `model` is the repo id of the model that they are of, which may have been pushed after they were made; `commit`
    has the weights.
    """
    layers = metadata["layers"]
    rows = sorted(layer["rows"] for layer in layers.values())
    thin = sum(layer["rows"] < layer["size"] for layer in layers.values())
    url = f"{endpoint()}/{model}/tree/{commit}"
    facts = {
        "Model": f"{link(model, url)} at `{commit[:8]}`",
        "Data": data_words(metadata["data"]),
        **_counts(metadata),
        "Layers": f"{len(layers) + len(metadata['aliases'])} linear layers, {len(layers)} of them stored",
        "Made with": md(", ".join(f"{name} {version}" for name, version in metadata["software"].items())),
    }
    body = render(
        "statistics_card",
        model=model,
        model_link=link(model, url),
        facts=facts,
        rows=f"{rows[0]:,}" if rows[0] == rows[-1] else f"{rows[0]:,} to {rows[-1]:,}",
        exposed=f" **{thin} layers have fewer rows than inputs**: these rows can be worked out up to a rotation."
        if thin and not metadata.get("noise")
        else "",
        noise=_noise_words(metadata.get("noise")),
        repo=repo_id,
    )
    data = {"base_model": [model], "tags": ["fusehub-statistics", "fusehub"]}
    if found := pinned_dataset(metadata["data"]["source"], metadata["data"].get("revision")):
        data["datasets"] = [found.repo_id]
    return card_of(data, body)


def _noise_words(noise: Mapping[str, Any] | None) -> str:
    if not noise:
        return ""
    return (
        f" These sums were made private for each text: noise was added so that they are ({noise['epsilon']:g}, "
        f"{noise['delta']:g})-differentially private with respect to replacing one text by another."
    )


def _counts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """How much was counted, as far as the file tells, and the noise on it."""
    counts = {}
    if metadata.get("examples"):
        counts["Texts"] = f"{metadata['examples']:,}"
    if metadata.get("tokens"):
        longest = f", at most {metadata['max_length']:,} a text" if metadata.get("max_length") else ""
        counts["Tokens"] = f"{metadata['tokens']:,}{longest}"
    if (error := error_in(metadata)) is not None:
        counts["Standard error"] = f"{error_words(error)} of the grams, in nine of ten layers"
    if noise := metadata.get("noise"):
        counts["Noise"] = f"({noise['epsilon']:g}, {noise['delta']:g})-differentially private for each text"
    if imported := metadata.get("imported"):
        counts["Imported from"] = md(f"{imported['from']}, {imported['file']}")
    return counts


def data_words(data: Mapping[str, Any]) -> str:
    """The data of statistics: a link where it is a dataset on the Hub at a commit."""
    if found := pinned_dataset(data["source"], data.get("revision")):
        return link(data["source"], f"{endpoint()}/datasets/{found.repo_id}/tree/{data['revision']}")
    return md(without_paths(str(data["source"])))
