"""A finished merge on disk: what it wrote about itself, and the same without paths of this machine.

    merge = read_merge("out/merged")
    merge.sources[0]["repo_id"], merge.license.license, merge.public_recipe()

The report and the recipe are written by `fusehub.merging.provenance`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile
from fusehub.hub.licenses import LicenseVerdict, reconcile
from fusehub.hub.upload import Files
from fusehub.merging.provenance import REPORT_FILENAME
from fusehub.merging.recipe import FILENAME as RECIPE_FILENAME
from fusehub.merging.recipe import Recipe
from fusehub.merging.report import check_report
from fusehub.merging.sources import is_place
from fusehub.models.adapters.ref import CONFIG as ADAPTER_CONFIG
from fusehub.models.tasks import task_of
from fusehub.utils.frozen import thawed
from fusehub.utils.markdown import without_paths
from fusehub.utils.untrusted.documents import check_adapter_config, check_config, read_object

if TYPE_CHECKING:
    from fusehub.models.tasks import Task

# user/name, or a folder in it, at a commit: what can be linked to.
PINNED = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@([0-9a-f]{40})")


@dataclass(frozen=True)
class MergedFolder:
    """A finished merge: its report, its recipe, and the config of each model in it by subfolder ("" for the root).

    `adapter` is its adapter_config.json, where it was written as an adapter.
    """

    path: Path
    report: dict[str, Any]
    recipe: Recipe
    configs: dict[str, dict[str, Any]]
    adapter: dict[str, Any] | None = None

    @property
    def sources(self) -> list[dict[str, Any]]:
        return self.report["sources"]

    @property
    def keeps_heads(self) -> bool:
        return self.report["heads"] == "keep"

    @property
    def tasks(self) -> list[Task]:
        """What its models are for, each once: several where heads of different tasks share a body."""
        tasks = [task_of(config, self.path.name) for config in self.configs.values()]
        return list({task.name: task for task in tasks}.values())

    @property
    def adapter_base(self) -> tuple[str, str | None] | None:
        """Name and commit of the base that the merge works on, where it was written as an adapter."""
        if self.adapter is None:
            return None
        return self.public(self.adapter["base_model_name_or_path"]), self.adapter.get("revision")

    @property
    def origins(self) -> list[dict[str, Any]]:
        """All whose terms the result is under: the experts, the bases that adapters are on, and the merge's base."""
        experts = [{**source, "name": source["short_name"]} for source in self.sources]
        bases = [source["adapter_base"] for source in self.sources if source.get("adapter_base")]
        bases += [self.report["base_source"]] if self.report["base_source"] else []
        return [*experts, *{base["name"]: base for base in bases}.values()]

    @property
    def tuning(self) -> dict[str, Any] | None:
        """How options were chosen by validation data; without the trials where the recipe of such a merge was used."""
        return self.report.get("tuning") or thawed((self.recipe.provenance or {}).get("tuning"))

    @property
    def license(self) -> LicenseVerdict:
        """Of what went in."""
        return reconcile((origin["name"], origin["license"]) for origin in self.origins)

    @property
    def local_folders(self) -> dict[str, str]:
        """Folders of this machine that went in, as they were written -> the name that stands for them elsewhere.

        That is its last part; where several have the same one, with the expert before it that it is of.
        """
        models = {source["name"]: source["short_name"] for source in self.sources if not source["repo_id"]}
        models |= {str(Path(place).expanduser()): name for place, name in models.items()}
        # Each with the expert that it is of, where it is of one.
        others: dict[str, str] = {}
        for entry, source in zip(self.recipe.models, self.sources, strict=True):
            for place in (entry.statistics if is_place(entry.statistics) else None, entry.data):
                others |= {place: source["short_name"]} if place and place not in others else {}
        bases = [source["adapter_base"] for source in self.sources if source.get("adapter_base")]
        for base in (self.recipe.base_model, *(base["folder"] for base in bases)):
            others |= {base: ""} if base else {}
        # Statistics inside a model's own folder are named by that folder's name too.
        inside = tuple(f"{place}/" for place in models)
        here = {place: of for place, of in others.items() if is_local(place) and not place.startswith(inside)}
        last = Counter(Path(place).name for place in here)
        return models | {
            place: f"{of}-{Path(place).name}" if of and last[Path(place).name] > 1 else Path(place).name
            for place, of in here.items()
        }

    def public_report(self) -> str:
        """The report as it is published, without paths of this machine."""
        report = {
            key: value if key in ("options", "model_options") else _each_text(value, self.public)
            for key, value in self.report.items()
        } | {"labels": self.labels}
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"

    def public_recipe(self) -> str:
        """The recipe as it is published, without paths of this machine."""
        content = self.recipe.model_dump(mode="json")
        for entry in content["models"]:
            entry |= {"model": self.public(entry["model"]), "statistics": self.public(entry["statistics"])}
            entry["data"] = self.public(entry["data"]) if entry["data"] else None
        content["base_model"] = self.public(content["base_model"]) if content["base_model"] else None
        return Recipe.parse(content).to_yaml()

    def recipe_file(self) -> str:
        """The same as a file, which first tells of what it names that nobody else has."""
        names = dict.fromkeys(self.local_folders.values())
        if not names:
            return self.public_recipe()
        made: dict[str, str] = {}
        for entry, source in zip(self.recipe.models, self.sources, strict=True):
            counted = source["statistics"]
            if counted and (name := self.local_folders.get(entry.statistics)):
                of = source["repo_id"] or source["short_name"]
                made.setdefault(name, f": statistics of {of}{_made_of(counted)}")
        lines = ["Not on the Hub, but of whoever made the merge. Put paths in for them first.",
                 *(f"- {name}{made.get(name, '')}" for name in names)]  # fmt: skip
        return "".join(f"# {' '.join(self.public(line).split())}\n" for line in lines) + self.public_recipe()

    @property
    def labels(self) -> list[str]:
        """Of the head. A label may look like a path ("/m/09x0r"), but is none of the folders that went in."""
        return [self._without_folders(label) for label in self.report["labels"]]

    def public_files(self) -> Files:
        """Everything in the folder, hidden and unfinished files left out, and nobody's paths in it."""
        files: Files = {}
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            if path.is_file() and not any(part.startswith(".") or part.endswith(".partial") for part in parts):
                files["/".join(parts)] = path
        return files | {
            REPORT_FILENAME: self.public_report().encode(),
            RECIPE_FILENAME: self.recipe_file().encode(),
        }

    def public(self, text: str) -> str:
        """`text` with folders of this machine named by their last part."""
        return without_paths(self._without_folders(text))

    def _without_folders(self, text: str) -> str:
        for place, name in sorted(self.local_folders.items(), key=lambda item: -len(item[0])):
            if place != name:
                text = re.sub(rf"(?<![\w./-]){re.escape(place)}(?![\w-])", name.replace("\\", r"\\"), text)
        return text


def read_merge(folder: str | Path) -> MergedFolder | None:
    """The merge in `folder`; None for a folder that FuseHub did not write. Raises `BadFile` on a broken report."""
    folder = Path(folder)
    if not (folder / REPORT_FILENAME).is_file():
        return None
    owner, on_base = str(folder), folder / ADAPTER_CONFIG
    try:
        report = check_report(read_object(folder / REPORT_FILENAME, owner), owner)
        parts = [source["short_name"] for source in report["sources"]] if report["heads"] == "keep" else [""]
        configs = {part: check_config(read_object(folder / part / "config.json", owner), owner) for part in parts}
        adapter = check_adapter_config(read_object(on_base, owner), owner) if on_base.is_file() else None
    except BadFile as error:
        raise BadFile(f"The merge in {folder} is not complete. {error.what}", "Merge again.") from error
    if adapter is not None and not (adapter.get("peft_type") == "LORA" and adapter.get("base_model_name_or_path")):
        raise BadFile(f"{folder / ADAPTER_CONFIG} is not that of a LoRA adapter on a base.", "Merge again.")
    return MergedFolder(folder, report, Recipe.read(folder / RECIPE_FILENAME), configs, adapter)


def is_local(place: str) -> bool:
    """Whether statistics (or a base) came from this machine: anything that is not user/name, or that exists here."""
    if PINNED.fullmatch(place):
        return False
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)+(@[\w./-]+)?", place) or Path(place).exists()


def _made_of(counted: Mapping[str, Any]) -> str:
    """What statistics were made of, as far as it is known."""
    data = counted["data"] or {}
    revision = str(data.get("revision") or "")
    # Files have a hash in the place of a commit.
    exactly = f" (sha256 {revision})" if len(revision) == 64 else f"@{revision}" if revision else ""
    source = f" of {data['source']}{exactly}" if data.get("source") else ""
    return f", made of {counted['examples']:,} texts{source}" if counted["examples"] else ""


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with `change` applied to every text in it that is not a key."""
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
