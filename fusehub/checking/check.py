"""Can these models be merged? Told from configs, tokenizers and safetensors headers, before any weights are read.

`check` lists every difference at once, with what it means and what can be done about it. A difference that makes a
merge meaningless is an `error`; one that a person should know is a `warning`; a fact is a `note`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from fusehub.checking.configs import NAMED_BASE, config_findings, different_bases, origin_of
from fusehub.checking.heads import Heads, LabelPlan, plan_labels
from fusehub.checking.preprocessing import Vocabularies, input_findings
from fusehub.checking.reading import read_ahead
from fusehub.checking.report import ModelFacts, Report, with_ways_out
from fusehub.checking.shapes import shape_findings
from fusehub.checking.terms import terms_findings
from fusehub.errors import Action, BadRecipe, FuseHubError, Offline, unknown
from fusehub.hub.access import Access
from fusehub.hub.licenses import license_of
from fusehub.models.checkpoints.checkpoint import Tensors, headers
from fusehub.models.checkpoints.downloads import missing_bytes
from fusehub.models.completeness import (
    base_shortcomings,
    beyond_rows,
    shortcomings,
    stored_by_some,
    without_rows,
)
from fusehub.models.known.layouts import layout_for
from fusehub.models.layout import Layout
from fusehub.models.resolve import ModelRef, refs_of
from fusehub.models.side_documents import side_findings
from fusehub.models.tasks import architecture_of, labels_of, task_of
from fusehub.statistics.sources import has_statistics
from fusehub.utils.findings import Finding, Level
from fusehub.utils.progress import Progress, silent


def check(
    models: Sequence[str | os.PathLike[str] | ModelRef],
    *,
    base: str | os.PathLike[str] | ModelRef | None = None,
    heads: Heads = "auto",
    labels: Mapping[str, Sequence[str]] | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> Report:
    """Everything that speaks against (or is worth knowing before) merging `models`, without reading weights.

    A model that cannot be found at all raises; everything else is a finding of the report.

    Args:
        models: Two or more: `user/name`, `user/name@revision`, a folder, `BASE+ADAPTER`.
        base: The pretrained model that they were fine-tuned from, for methods that work on differences to it.
        heads: `merge` matches the rows of heads by label, `keep` leaves each expert its own, `auto` merges what can
            be matched.
        labels: Names of the rows of a head, by the model's name as given, where its config has none.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what) as models are read.

    Returns:
        All findings, and how labels would be matched.

    Raises:
        NotFound: A model is not there.
        AccessDenied: A model is gated or private.
        BadRecipe: There are fewer than two models.

    Examples:
        >>> report = fusehub.check(["user/expert-1", "user/expert-2"])
        >>> report.ok
        True
        >>> [finding.code for finding in report.findings]
        ['license-result']
    """
    access = Access(token, cache_dir, local_files_only)
    found = refs_of([*models, *([] if base is None else [base])], access)
    refs, base_ref = found[: len(models)], None if base is None else found[-1]
    if heads not in get_args(Heads):
        raise unknown("way to treat heads", str(heads), get_args(Heads))
    if len(refs) + (base_ref is not None) < 2:
        raise BadRecipe("A merge takes at least two models.", "Name two or more.")
    read_ahead(found, progress)
    return _Check(refs, base_ref, heads, labels).run()


class _Check:
    """The state of one check: what is known of each model, and what was found so far."""

    def __init__(
        self,
        refs: list[ModelRef],
        base: ModelRef | None,
        heads: Heads,
        labels: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.refs, self.base, self.heads = refs, base, heads
        self.given = labels
        self.everyone = [*refs, *([base] if base else [])]
        self.findings: list[Finding] = []
        self.configs = {ref.id: ref.config for ref in self.everyone}
        self.tensors: dict[str, Tensors | None] = {}
        self.layouts: dict[str, Layout] = {}
        # By their ids: those that cannot be loaded whole, and those whose tokenizer knows more than their embeddings.
        self.incomplete: set[str] = set()
        self.unfit: set[str] = set()
        self.vocabularies = Vocabularies()
        self.origins = {ref.id: origin_of(ref, self.configs[ref.id]) for ref in refs}

    def run(self) -> Report:
        understood = [ref for ref in self.everyone if self._kind(ref)]
        readable = len(understood) == len(self.everyone)
        for ref in self.everyone:
            self.tensors[ref.id] = self._tensors(ref)
            # transformers reads a config before a tokenizer: of one that is wrong, nothing else is worth saying.
            if ref in understood:
                self.findings += [*self.vocabularies.read(ref), *side_findings(ref)]
        if readable:
            self._completeness()
        plan = None
        if readable and self._same_architecture():
            self._configs()
            self._shapes()
            self._stored_by_some()
            # Which rows a head has is not known before it is whole.
            plan = None if self.incomplete else self._labels()
        self._tokens_without_rows(plan.policy if plan else None)
        if experts := [ref for ref in self.refs if ref in understood]:
            base = self.base if self.base in understood else None
            self.findings += input_findings(experts, base, self.vocabularies)
        self._lineage()
        self.findings += terms_findings(self.everyone)
        self._same_model_twice()
        largest = self.vocabularies.largest(self.refs, self.unfit)
        tokens = self.vocabularies.of(self.refs[largest])
        facts = [self._facts(ref) for ref in self.refs]
        return Report(
            facts,
            with_ways_out(self.findings, facts),
            plan,
            largest,
            frozenset(ref.id for ref in self.everyone if self.vocabularies.of(ref) == tokens),
            sum(map(missing_bytes, self.everyone)),
        )

    def _find(self, code: str, level: Level, what: str, fix: str = "", actions: Iterable[Action] = ()) -> None:
        self.findings.append(Finding(code, level, what, fix, tuple(actions)))

    def _kind(self, ref: ModelRef) -> bool:
        """Whether the model is one that FuseHub can read, and its config tells what its rows mean."""
        try:
            if ref is self.base:
                architecture_of(self.configs[ref.id], ref.name)
            else:
                task_of(self.configs[ref.id], ref.name)
        except FuseHubError as error:
            self._find("unreadable", "error", error.what, error.fix, error.actions)
            return False
        try:
            labels_of(self.configs[ref.id], ref.name)
        except FuseHubError as error:
            self._find("labels", "error", error.what, error.fix, error.actions)
            return False
        return True

    def _tensors(self, ref: ModelRef) -> Tensors | None:
        try:
            found = headers(ref)
        except Offline:
            raise  # That says nothing of the model.
        except FuseHubError as error:
            self._find("unreadable", "error", error.what, error.fix, error.actions)
            return None
        if found is None:
            self._find(
                "no-header", "note", f"{ref.name} has no safetensors: its shapes are seen only once it is downloaded."
            )
            return None
        odd = sorted({info.dtype for info in found.values() if info.dtype.startswith("F8") or info.dtype == "U8"})
        if odd:
            self._find(
                "quantised",
                "error",
                f"{ref.name} has tensors of dtype {odd[0]}: it is quantised.",
                "Use the repo with the original float weights.",
            )
        if found.scaled:
            self._find(
                "float8",
                "note",
                f"{ref.name} stores {len(found.scaled)} matrices in float8 with scales: they are read as what they "
                "mean, and merged into bfloat16 where no other dtype is asked for.",
            )
        return found

    def _same_architecture(self) -> bool:
        """Whether all are of one architecture, or of several tasks on one: then each has a head of its own to keep."""
        kinds = {ref.name: architecture_of(self.configs[ref.id], ref.name) for ref in self.refs}
        if len(set(kinds.values())) == 1 or self._same_body():
            return True
        self._find(
            "architecture-differs", "error",
            "The models are of different architectures: "
            + ", ".join(f"{name} is a {kind}" for name, kind in kinds.items()) + ".",
            "Merge models that were fine-tuned from the same base for the same kind of task.",
        )  # fmt: skip
        return False

    def _same_body(self) -> bool:
        """Whether experts of different tasks have a body in common, told by what transformers calls it."""
        if self.heads == "merge" or len({self.configs[ref.id].get("model_type") for ref in self.refs}) > 1:
            return False
        try:
            layouts = [layout_for(ref) for ref in self.refs]
        except FuseHubError:
            return False
        return len({layout.base_prefix for layout in layouts}) == 1 and all(layout.has_body for layout in layouts)

    def _configs(self) -> None:
        first = self.everyone[0]
        for other in self.everyone[1:]:
            fit = self.vocabularies.fit(first, other) or bool(self.incomplete & {first.id, other.id})
            self.findings += config_findings(first, other, is_base=other is self.base, same_tokens=fit)

    def _completeness(self) -> None:
        """Whether transformers would load each model whole, and the base has what is compared with it."""
        for ref in self.refs:
            try:
                self.layouts[ref.id] = layout_for(ref)
            except FuseHubError as error:
                self._find("unreadable", "error", error.what, error.fix, error.actions)
        first = self.layouts.get(self.refs[0].id)
        for ref in self.everyone:
            tensors = self.tensors[ref.id]
            layout = first if ref is self.base else self.layouts.get(ref.id)
            if tensors is None or layout is None:
                continue
            if cause := tensors.wrapping.cause:
                self._find("names-wrapped", "note", f"{ref.name}: {cause}. It is read without that.")
            found = (base_shortcomings if ref is self.base else shortcomings)(ref.name, layout, tensors)
            self.findings += found
            if any(finding.level == "error" for finding in found):
                self.incomplete.add(ref.id)

    def _stored_by_some(self) -> None:
        """Tensors that a file may lack, and that only some models' files have; experts that share but a body aside."""
        known = [(ref.name, self.tensors[ref.id]) for ref in self.refs if self.tensors[ref.id] is not None]
        layouts = list(self.layouts.values())
        if known and len({layout.architecture for layout in layouts}) == 1:
            self.findings += stored_by_some(layouts[0], *zip(*known, strict=True))

    def _tokens_without_rows(self, policy: str | None) -> None:
        """Tokenizers that know more than the embeddings: one that fits goes into the result, if there is one."""
        beyond = {}
        for ref in self.refs:
            tensors, layout = self.tensors[ref.id], self.layouts.get(ref.id)
            if tensors is not None and layout is not None and ref.id not in self.incomplete:
                beyond[ref.id] = without_rows(ref, layout, tensors, self.vocabularies.of(ref))
        self.unfit = {ref_id for ref_id, tokens in beyond.items() if tokens}
        one_fits = policy != "keep" and len(self.unfit) < len({ref.id for ref in self.refs})
        for ref in self.refs:
            if tokens := beyond.get(ref.id):
                finding = beyond_rows(ref.name, tokens)
                if one_fits:
                    fix = "The result gets the tokenizer of another model, which does not know them."
                    finding = replace(finding, level="warning", fix=fix)
                self.findings.append(finding)

    def _shapes(self) -> None:
        layout = self.layouts.get(self.refs[0].id)
        if layout is None:
            return
        named = {}
        for ref in self.everyone:
            tensors = self.tensors[ref.id]
            if tensors is not None and ref.id not in self.incomplete:
                names = self.layouts.get(ref.id, layout).names(tensors)
                named[ref.id] = {parameter: tensors[name] for name, parameter in names.items()}
        first = self.refs[0]
        for other in self.everyone[1:]:
            if first.id in named and other.id in named:
                same_tokens = self.vocabularies.fit(first, other)
                self.findings += shape_findings(
                    (first, named[first.id]), (other, named[other.id]), layout, same_tokens=same_tokens
                )

    def _labels(self) -> LabelPlan | None:
        given = {name: list(own) for name, own in (self.given or {}).items()}
        try:
            plan = plan_labels(
                [self.configs[ref.id] for ref in self.refs],
                [ref.name for ref in self.refs],
                heads=self.heads,
                given=given,
            )
        except FuseHubError as error:
            self._find("labels", "error", error.what, error.fix, error.actions)
            return None
        if plan.policy == "keep":
            self._find(
                "heads-kept",
                "note",
                f"Each expert keeps its own head ({plan.why}); the rest is merged, one subfolder a task.",
            )
        for note in plan.notes:
            self._find("labels", "note", note)
        for warning in plan.warnings:
            self._find(
                "labels-by-position",
                "warning",
                warning,
                f"If it does not, name them: --labels {self.refs[0].name}=negative,positive",
                actions=[Action("name-labels")],
            )
        if plan.resembling:
            self._find(
                "labels-alike",
                "warning",
                f"{', '.join(plan.resembling)} look like one label, and are rows of their own in the result.",
                f"If they are one, call them the same: --labels {self.refs[0].name}=NAME,NAME,...",
                actions=[Action("name-labels")],
            )
        return plan

    def _lineage(self) -> None:
        for ref in self.refs:
            if (parts := ref.parts) and (other := ref.trained_on_another):
                self._find(
                    "adapter-base-differs",
                    "warning",
                    f"{parts.adapter.name} says that it was trained on {other}, and is put on {parts.base.name}.",
                    "The result is what was trained only where both have the same weights.",
                )
        if known := different_bases(self.refs, self.base, self.origins):
            self._find(
                "lineage-differs", "warning",
                "The models say that they come from different bases: "
                + ", ".join(f"{name} {'is' if name == NAMED_BASE else 'from'} {base}" for name, base in known.items())
                + ".",
                "Experts of different bases give garbage, even where all shapes agree; a merge measures the distance "
                "of their weights and refuses if they are strangers.",
            )  # fmt: skip

    def _same_model_twice(self) -> None:
        ids = [ref.id for ref in self.refs]
        for ref_id in {ref_id for ref_id in ids if ids.count(ref_id) > 1}:
            self._find(
                "same-model-twice",
                "warning",
                f"{ref_id} goes in {ids.count(ref_id)} times.",
                "Say --weight instead.",
                actions=[Action("set-shares")],
            )

    def _facts(self, ref: ModelRef) -> ModelFacts:
        config, tensors = self.configs[ref.id], self.tensors.get(ref.id)
        architectures = config.get("architectures") or [None]
        try:
            task, labels = task_of(config, ref.name).name, tuple(labels_of(config, ref.name))
        except FuseHubError:
            task, labels = None, ()
        return ModelFacts(
            name=ref.name,
            id=ref.id,
            task=task,
            architecture=architectures[0],
            parameters=sum(info.numel for info in tensors.values()) if tensors else None,
            dtypes=tuple(sorted({info.dtype for info in tensors.values() if info.is_float})) if tensors else (),
            size=sum(ref.files[name].size for name in ref.weight_files()) if tensors else 0,
            labels=labels,
            license=license_of(ref.card),
            gated=ref.gated,
            base=self.origins[ref.id].base,
            statistics=has_statistics(ref),
        )
