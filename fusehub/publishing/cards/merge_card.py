"""The model card of a merge: what went in, how it was made, how good it is, and how to make it again.

    card = model_card("out/merged", repo_id="user/merged", evaluation=evaluation)
    card.data.license, card.text

All facts come from the report and the recipe that the merge wrote, and from an evaluation; what is not known is
left out. Nothing depends on when or where the card is made, and folders of this machine are named by their last
part alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadData, Incompatible, NotFound
from fusehub.hub.client import endpoint
from fusehub.hub.repos import RECIPE_TAG
from fusehub.merging.recipe import FILENAME as RECIPE_FILENAME
from fusehub.models.adapters.ref import CONFIG as ADAPTER_CONFIG
from fusehub.models.adapters.ref import WEIGHTS as ADAPTER_WEIGHTS
from fusehub.models.label_names import are_generic
from fusehub.models.tasks import labels_of, task_of
from fusehub.models.tensor_files import open_tensors
from fusehub.publishing.cards.front_matter import card_of, front_matter_of, license_entries, page_of
from fusehub.publishing.cards.results import Results
from fusehub.publishing.cards.sources import source_line, texts_used
from fusehub.publishing.cards.tuning import shown, tuning_facts
from fusehub.publishing.cards.usage import example_code, heads_code
from fusehub.publishing.merged_folder import PINNED, MergedFolder, read_merge
from fusehub.utils.markdown import fence_for, link, listed, md, render
from fusehub.utils.untrusted.documents import check_config, read_object

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from fusehub.comparing.evaluation import Evaluation

# Findings that the card tells in its own words, or that were of no concern once it was merged.
_LICENSE = ("license-result", "license-forbids", "license-conflict", "license-unclear")
_SAID_ELSEWHERE = (*_LICENSE, "restricted", "no-header")


def model_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    license: str | None = None,
) -> ModelCard:
    """The card of the model in `folder`, whose files are left as they are.

    A folder that no merge wrote gets a short card of what its config says.

    Args:
        folder: What `merge` wrote, or another model's folder.
        repo_id: The repo that it will be in, for the card's title and code.
        evaluation: Results for the card.
        license: The license that it says, "" for none; None for what follows from the licenses of what went in.

    Returns:
        The card, whose text is `str(card)`.

    Raises:
        NotFound: There is no model in the folder.
        BadData: The evaluation does not have this model among its own.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged")
        >>> fusehub.model_card(merged.folder, repo_id="you/merged").data.base_model
        ['user/expert-1', 'user/expert-2']
    """
    folder = Path(folder)
    merge = read_merge(folder)
    if merge is None:
        return _plain_card(folder, repo_id, evaluation, license)
    known = [name for source in merge.sources for name in (source["repo_id"], source["short_name"]) if name]
    tuned_on = (merge.tuning or {}).get("data", ())
    results = Results(evaluation, folder, repo_id, known, tuned_on) if evaluation is not None else None
    return card_of(
        front_matter_of(merge, _title(folder, repo_id), results, license),
        render("model_card", **_facts(merge, repo_id, results, license)),
    )


def _facts(merge: MergedFolder, repo_id: str | None, results: Results | None, license: str | None) -> dict[str, Any]:
    """Everything that the template of a merge's card says."""
    report = merge.report
    recipe = merge.public_recipe().rstrip()
    local = list(dict.fromkeys(md(name) for name in merge.local_folders.values()))
    software = ", ".join(f"{name} {version}" for name, version in report["software"].items())
    return {
        "title": _title(merge.path, repo_id),
        "repo": _place(merge.path, repo_id),
        "task": merge.tasks[0].name,
        "on_hub": repo_id is not None,
        "experts": listed([link(source["short_name"], page_of(source)) for source in merge.sources]),
        "sources": [source_line(merge, source) for source in merge.sources],
        "base": _base(merge),
        "method": _method(merge),
        "texts_used": texts_used(merge),
        "options": _options(report),
        "tuning": tuning_facts(merge.tuning) if merge.tuning else None,
        "work": [merge.public(line) for line in _work(merge)],
        "notes": [merge.public(line) for line in _notes(merge)],
        "heads": _heads(merge),
        "keeps_heads": merge.keeps_heads,
        "adapter_base": _adapter_base(merge),
        "code": example_code(merge.configs, _place(merge.path, repo_id), base=merge.adapter_base),
        "loads_heads": heads_code(merge.configs, _place(merge.path, repo_id)) if merge.keeps_heads else "",
        "results": results,
        "recipe_file": RECIPE_FILENAME,
        "recipe": recipe,
        "fence": fence_for(recipe),
        "software": f" (made with {md(software)})" if software else "",
        "local_folders": listed(local) if local else "",
        "hashes": report["sha256"],
        "license": _license_words(merge, license),
    }


def recipe_card(merge: MergedFolder, repo_id: str) -> ModelCard:
    """The card of the repo `repo_id`, which has the recipe of a merge and none of its weights."""
    facts = _facts(merge, repo_id, None, None)
    plugins = "".join(f" --plugin {plugin['file']}" for plugin in merge.recipe.plugins)
    tasks = listed([task.name.replace("-", " ") for task in merge.tasks])
    front = front_matter_of(merge, facts["title"], None)
    # A license would be read as that of weights, and a task as something that can be run.
    front = {key: front[key] for key in ("base_model", "base_model_relation", "language", "datasets") if key in front}
    tags = [RECIPE_TAG, "fusehub", "merge", merge.report["method"]]
    return card_of(
        {**front, "library_name": "fusehub", "tags": tags},
        render("recipe_card", **facts, plugins=plugins, tasks=tasks),
    )


def _plain_card(folder: Path, repo_id: str | None, evaluation: object, license: str | None) -> ModelCard:
    if evaluation is not None:
        raise BadData(f"{folder} is not a merge, and results go into the card of one.", "Leave the results out.")
    if (folder / ADAPTER_CONFIG).is_file():
        raise BadData(
            f"{folder} is an adapter without a README.md, and FuseHub writes cards of merges and whole models.",
            "Write one; peft's save_pretrained does.",
        )
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} has no config.json.", "Give the folder of a merge, or of a model.")
    config = check_config(read_object(folder / "config.json", str(folder)), str(folder))
    try:
        task = task_of(config, folder.name)
    except Incompatible as error:
        raise BadData(
            f"{folder} has no README.md, and FuseHub cannot write one. {error.what}", "Write one."
        ) from error
    body = render(
        "plain_card",
        title=_title(folder, repo_id),
        task=task.name,
        architecture=config["architectures"][0],
        labels=_labels(labels_of(config, folder.name)),
        code=example_code({"": config}, _place(folder, repo_id)),
    )
    return card_of({"license": license, "library_name": "transformers", "pipeline_tag": task.name}, body)


def _title(folder: Path, repo_id: str | None) -> str:
    return repo_id.rpartition("/")[2] if repo_id else folder.resolve().name


def _place(folder: Path, repo_id: str | None) -> str:
    """What the code of the card calls the model."""
    return repo_id or folder.resolve().name


def _base(merge: MergedFolder) -> str:
    base = merge.report["base"]
    if not base:
        return ""
    pinned = PINNED.fullmatch(base)
    if not pinned:
        return md(merge.public(base))
    repo, inside, commit = pinned.groups()
    return link(f"{repo}{inside}", f"{endpoint()}/{repo}/tree/{commit}{inside}")


def _adapter_base(merge: MergedFolder) -> str:
    """A link to what an adapter works on; nothing where the merge is a whole model."""
    if not merge.adapter_base:
        return ""
    name, commit = merge.adapter_base
    return link(name, page_of({"repo_id": name if commit else None, "commit": commit}))


def _method(merge: MergedFolder) -> dict[str, Any]:
    from fusehub.methods import METHODS

    method = METHODS.get(merge.report["method"])
    if method is None:  # Of a plugin that is not loaded here.
        files = [f"{md(plugin['file'])}, sha256 {plugin['sha256'][:12]}" for plugin in merge.recipe.plugins]
        return {
            "name": merge.report["method"],
            "link": f"{md(merge.report['method'])}, a method of its author's own ({', '.join(files)})",
            "summary": "",
            "needs_statistics": bool(merge.report["statistics"]),
            "needs_data": bool(merge.report.get("data")),
        }
    return {
        "name": method.name,
        "link": link(method.title, method.paper) if method.paper else md(method.title),
        "summary": method.summary,
        "needs_statistics": method.needs_statistics,
        "needs_data": method.needs_data,
    }


def _options(report: Mapping[str, Any]) -> list[dict[str, str]]:
    from fusehub.methods import METHODS

    method = METHODS.get(report["method"])
    fields = method.own_options.fields() | method.options.fields() if method else {}
    return [
        {
            "name": name,
            "value": shown(value),
            "meaning": fields[name].description or "" if name in fields else "",
        }
        for name, value in report["options"].items()
    ]


def _adapter_work(merge: MergedFolder, adapter: Mapping[str, Any]) -> list[str]:
    """What an adapter is made of: the updates of all experts beside each other, and what is stored as a whole."""
    names = _names_in(merge, merge.path / ADAPTER_WEIGHTS)
    updated, whole = sum("lora_A" in n or "lora_embedding_A" in n for n in names), sum("lora_" not in n for n in names)
    lines = [f"The updates of {updated} layers were joined, exactly: rank {adapter['r']} at most"]
    if whole:
        lines.append(f"{whole} tensors, of the head or biases, are stored as a whole")
    return lines


def _work(merge: MergedFolder) -> list[str]:
    """What was done with how many tensors, one line each kind."""
    if merge.adapter:
        return _adapter_work(merge, merge.adapter)
    kept = _kept_names(merge)
    tensors = [tensor for tensor in merge.report["tensors"] if tensor["name"] not in kept]
    groups: dict[tuple[bool, str], list[Mapping[str, Any]]] = {}
    for tensor in tensors:
        action, why = tensor["action"], tensor["why"]
        if action == "solve":
            done = f"solved by {why}: the weights of linear layers"
        elif tensor.get("solved_with"):
            done = "solved together with their layer's weight: biases"
        elif action == "combine":
            done = f"combined element by element: {why}"
        else:
            done = f"{'averaged' if action == 'mean' else 'copied from the first expert'}: {why}"
        is_solved = action == "solve" or bool(tensor.get("solved_with"))
        groups.setdefault((is_solved, done), []).append(tensor)
    lines = []
    for (_, done), group in sorted(groups.items(), key=lambda item: not item[0][0]):
        tensors_were = "1 tensor was" if len(group) == 1 else f"{len(group)} tensors were"
        numbers = sum(math.prod(tensor["shape"]) for tensor in group)
        lines.append(f"{tensors_were} {done} ({_human(numbers)} parameters)")
    if kept:
        lines.append("The heads were kept as they are")
    return lines


def _kept_names(merge: MergedFolder) -> set[str]:
    """Tensors of the first expert's head, where heads were kept."""
    if not merge.keeps_heads:
        return set()
    return _names_in(merge, merge.path / next(iter(merge.configs)) / "head.safetensors")


def _names_in(merge: MergedFolder, path: Path) -> set[str]:
    """The tensors of a file of the merge. Raises `BadFile`."""
    with contextlib.closing(open_tensors(path, str(merge.path))) as file:
        return set(file.tensors)


def _notes(merge: MergedFolder) -> list[str]:
    """What was found while planning and merging, each once; layers that tell the same are counted."""
    report = merge.report
    found = [
        finding["what"] + (" It was merged all the same." if finding["level"] == "error" else "")
        for finding in report["findings"]
        if finding.get("code") not in _SAID_ELSEWHERE
    ]
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, told in report["layer_notes"].items():
        for note in told:
            kinds.setdefault(note["kind"], []).append((name, note["text"]))
    for examples in kinds.values():
        name, text = examples[0]
        found.append(f"{text} ({name}" + (f", and so in {len(examples) - 1} more layers)" if examples[1:] else ")"))
    return list(dict.fromkeys([*found, *report["notes"]]))


def _heads(merge: MergedFolder) -> str:
    """How the heads went together, and the labels."""
    if merge.keeps_heads:
        lines = [
            f"- `{part}`: {_labels(labels_of(config, part)) or 'labels without names'}"
            for part, config in merge.configs.items()
        ]
        return "Heads, one a subfolder, with their labels:\n\n" + "\n".join(lines)
    labels = merge.labels
    if any(finding.get("code") == "labels-by-position" for finding in merge.report["findings"]):
        return f"The heads have {len(labels)} rows without names: row i of each was taken to mean the same."
    if len(labels) == 1 and are_generic(labels):
        return "The heads have one row without a name."
    return f"Heads were matched by label name. Labels: {', '.join(md(label) for label in labels)}."


def _labels(labels: list[str]) -> str:
    return "" if are_generic(labels) else ", ".join(md(label) for label in labels)


def _license_words(merge: MergedFolder, chosen: str | None) -> str:
    verdict, stated = merge.license, license_entries(merge)
    words = []
    if chosen is not None and chosen != (verdict.license or ""):
        follows = f"the experts' cards lead to {md(verdict.license)}, because {md(verdict.why)}"
        words.append(
            f"License: {md(chosen) or 'none'}, as its publisher says{f'; {follows}' if verdict.license else ''}."
        )
    elif stated:
        words.append(f"License: {md(verdict.license)}, because {md(verdict.why)}.")
    words += [md(warning) for warning in verdict.warnings]
    if verdict.forbids_publishing:
        words.append(f"{md(verdict.why)}.")
    if verdict.conflicts:
        words.append(f"No license allows to share this merge: {md('; '.join(verdict.conflicts))}.")
    return " ".join([*words, "This follows from what the experts' cards say and is not legal advice."])


def _human(count: int) -> str:
    """`10.6 million`."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return f"{count:,}"
