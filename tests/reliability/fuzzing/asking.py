"""All questions about one changed repo, and what is wrong with the answers.

There are three outcomes. It is right: what comes of it loads, and has the numbers that it had without the change, or
those that transformers finds in the changed files. It is refused, in words. Or it is noted, and goes on. Whatever is
none of these is a `Defect`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.data.examples import load_examples
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
from fusehub.publishing.cards.merge_card import model_card
from fusehub.publishing.loadable import require_loadable
from fusehub.publishing.merged_folder import read_merge
from fusehub.statistics.inspection import inspect
from tests.reliability.fuzzing import oracles
from tests.reliability.fuzzing.answers import Asked
from tests.reliability.fuzzing.worlds import TEXTS, tensors_of

# Whether the numbers are finite is not read by `check`, and not every use of a model pads texts.
_NOT_FOR_CHECK = ("NaN or infinity", "not finite", "no token that texts are padded with")
_OF_A_MERGE = ("fusehub_report.json", "fusehub_recipe.yaml")


def ask(asked: Asked) -> None:
    """Asks everything that can be asked of a repo of this kind."""
    {"model": _model, "merged": _merged, "recipe": _recipe, "data": _data}[asked.repo.ask](asked)


def _model(asked: Asked) -> None:
    repo, folder, out = asked.repo, asked.folder, asked.place / "out"
    own = f"{repo.base}+{folder}" if repo.base else str(folder)
    models = [own, repo.partner]
    statistics = (folder / "fusehub").is_dir()
    method = asked.method or asked.random.choice(("mean", "regmean") if statistics else ("mean",))
    report = asked.step("check", lambda: check(models))
    plan = asked.step("plan", lambda: plan_merge(Recipe.of(models, method)))
    done = plan and asked.step("merge", lambda: merge(plan, out))
    if method == "regmean" and report is not None and report.ok and not report.models[0].statistics:
        # That there are none is a fact of the report and no finding: other methods need none.
        if done is not None:
            asked.fail("check misses statistics", "check", str(report.models[0]))
        else:
            method = "mean"
            done = asked.step("merge by mean", lambda: merge(models, out, method="mean"))
    _agree(asked, report, done)
    usual = repo.usual.get(method)
    is_usual = done is not None and _bytes_of(out) == usual
    if report is not None and report.ok and (said := _findings(report, folder)) != repo.usual.get("findings", said):
        asked.noted.append(said)
    if done is None:
        if out.exists() or list(asked.place.glob(".*")):
            asked.fail("left", "merge", str([path.name for path in asked.place.iterdir()]))
    elif usual is None:
        repo.usual |= {method: _bytes_of(out), f"{method} says": _says(out), "findings": _findings(report, folder)}
    elif not is_usual:
        _judge_merge(asked, out, method)
    if done is not None:
        _judge_folder(asked, out, known=is_usual)
    before = len(asked.refused)
    runs = [_compared, _collected]
    for run in runs if asked.thorough else [asked.random.choice(runs)]:
        run(asked, own)
    if report is not None and report.ok and not asked.noted:
        # Nothing was said of the files: the model must be of use.
        for text in asked.refused[before:]:
            if not any(own in text for own in _NOT_FOR_CHECK):
                asked.fail("check says nothing of what is refused", text.partition(":")[0], text[:400])
    if (folder / "fusehub").exists():
        asked.step("inspect", lambda: inspect(str(folder / "fusehub")))


def _agree(asked: Asked, report: Any, done: Any) -> None:
    """`check` must know what the merge will say, as far as it can."""
    if done is not None and (report is None or not report.ok):
        asked.fail("check refuses what merge takes", "check", asked.refused[0] if asked.refused else str(report))
    if report is not None and report.ok and done is None:
        said = next((own for own in asked.refused if own.startswith(("plan:", "merge"))), "")
        if said and not asked.late:
            asked.fail("check takes what merge refuses", "merge", said[:400])


def _findings(report: Any, folder: Path) -> str:
    own = [(found.code, found.level, found.what.replace(str(folder), "X")) for found in report.findings]
    return json.dumps(own, default=str)


def _bytes_of(out: Path) -> dict[str, bytes]:
    """All files of a merge but those that tell where it was made."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in _OF_A_MERGE)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def _says(out: Path) -> torch.Tensor | None:
    return oracles.says(oracles.loaded(out)) if (out / "config.json").exists() else None


def _judge_merge(asked: Asked, out: Path, method: str) -> None:
    """A merge that is not what it was without the change: it must be what transformers makes of the changed files."""
    repo = asked.repo
    if not (out / "config.json").exists():
        _judge_kept(asked, out)
        return
    try:
        merged = oracles.loaded(out)
        answer = oracles.says(merged)
    except Exception as error:
        asked.fail("merged does not load", "merge", f"{type(error).__name__}: {error}"[:300])
        return
    usual = repo.usual[f"{method} says"]
    if answer.shape == usual.shape and torch.allclose(answer, usual, rtol=1e-4, atol=1e-5):
        return
    if method != "mean":
        if not bool(torch.isfinite(answer).all()):
            asked.fail("merged is not finite", "merge", "")
        return
    try:
        one = oracles.stranger(repo, asked.folder)
        expected = oracles.mean_of(one, oracles.partner(repo), merged)
    except Exception as error:
        _unknown(asked, "other numbers than usual", "merge", error)
        return
    if said := oracles.unlike(merged.state_dict(), expected, tensors_of(out)):
        asked.fail("other numbers than transformers finds", "merge", said)


def _unknown(asked: Asked, kind: str, step: str, error: Exception) -> None:
    """Transformers finds nothing to hold an answer against; as it must where names are wrapped, which was noted."""
    if not any("names-wrapped" in said for said in asked.noted):
        asked.fail(kind, step, f"and transformers finds none: {error}"[:300])


def _judge_kept(asked: Asked, out: Path) -> None:
    """Heads that are kept, each in a folder of its own: all load."""
    for config in out.glob("*/config.json"):
        try:
            oracles.says(oracles.loaded(config.parent))
        except Exception as error:
            asked.fail("merged does not load", "merge", f"{type(error).__name__}: {error}"[:300])


def _judge_folder(asked: Asked, out: Path, known: bool = False) -> None:
    """What was merged can be described, and pushed; `known` are the bytes of a model that was tried before."""
    said = len(asked.refused)
    asked.step("card", lambda: str(model_card(out, repo_id="ann/merged")))
    parts = [] if known else [path.parent for path in sorted(out.rglob("config.json"))]
    for part in parts:
        asked.step("loadable", lambda part=part: require_loadable(part))
    # A model whose numbers overflow, or that has no tokenizer, is merged all the same, and not pushed.
    for text in asked.refused[said:]:
        if not any(word in text for word in ("NaN or infinity", "tokenizer", "preprocessor_config")):
            asked.fail("merged, and refused then", text.partition(":")[0], text[:400])


def _compared(asked: Asked, own: str) -> None:
    repo = asked.repo
    pictures = repo.task == "image-classification"
    text = str(asked.world.folder / "images" / "cat" / "0.png") if pictures else TEXTS[0]
    told = asked.step("compare", lambda: compare([own], [text]))
    if told is None:
        return
    answer = told.texts[0].answers[0]
    found = {label: round(p, 4) for label, p in answer.probabilities.items()} or answer.label
    usual = repo.usual.setdefault("compare", found)
    if found == usual or repo.task != "text-classification":
        return
    try:
        model = oracles.stranger(repo, asked.folder)
        wanted = oracles.probabilities(model, repo.base or asked.folder)
    except Exception as error:
        _unknown(asked, "another answer than usual", "compare", error)
        return
    known = {label: answer.probabilities.get(label, answer.label) for label in wanted}
    if any(not isinstance(p, float) or abs(p - wanted[label]) > 2e-3 for label, p in known.items()):
        asked.fail("another answer than transformers'", "compare", f"{answer.probabilities}, not {wanted}"[:300])


def _collected(asked: Asked, own: str) -> None:
    repo, made = asked.repo, asked.place / "made"
    pictures = repo.task == "image-classification"
    data = asked.world.folder / "images" if pictures else asked.world.texts
    if repo.task == "text2text-generation":
        return  # Needs pairs.
    statistics = asked.step("collect", lambda: collect(own, str(data), made))
    if statistics is None:
        if made.exists():
            asked.fail("left", "collect", str([path.name for path in made.iterdir()]))
        return
    rows = {name: layer.rows for name, layer in statistics.layers.items()}
    sums = {name: [round(float(x), 2) for x in layer.total] for name, layer in statistics.layers.items()}
    statistics.close()
    asked.step("inspect", lambda: inspect(str(made)))
    usual = repo.usual.setdefault("collect", (rows, sums))
    if (rows, sums) != usual and repo.task == "text-classification" and repo.base is None:
        _judge_sums(asked, rows, sums)


def _judge_sums(asked: Asked, rows: dict[str, int], sums: dict[str, list[float]]) -> None:
    """Sums that are not what they were: they must be those of what the layers of the changed model are given."""
    import transformers

    try:
        model = oracles.stranger(asked.repo, asked.folder).float()
        tokenizer = transformers.AutoTokenizer.from_pretrained(asked.folder, local_files_only=True)
        seen: dict[str, torch.Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda _, given, __, name=name: _add(seen, name, given[0]))
        limit = oracles.max_length(tokenizer, model)
        with torch.inference_mode():
            for text in TEXTS:
                model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=limit))
    except Exception as error:
        _unknown(asked, "other statistics than usual", "collect", error)
        return
    for name, total in seen.items():
        own = next((own for stored, own in sums.items() if stored.endswith(f"{name}.weight")), None)
        if own is not None and not torch.allclose(torch.tensor(own), total, rtol=2e-2, atol=3e-2):
            asked.fail("other statistics than transformers'", "collect", f"{name}: {own[:4]}, not {total[:4]}")
            return


def _add(seen: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    total = value.reshape(-1, value.shape[-1]).float().sum(0)
    seen[name] = seen[name] + total if name in seen else total


def _merged(asked: Asked) -> None:
    """A finished merge: a card, what is published of its recipe and report, a trial, and merging by it again."""
    folder = asked.folder
    card = asked.step("card", lambda: str(model_card(folder, repo_id="ann/merged")))
    if card is not None and str(asked.world.folder) in card:
        asked.fail("a path of this machine", "card", card[:200])
    told = asked.step("read", lambda: read_merge(folder))
    if told is not None:
        asked.step("publish", lambda: (told.public_report(), told.public_recipe(), told.license, told.tasks))
    for config in sorted(folder.rglob("config.json")):
        asked.step("loadable", lambda config=config: require_loadable(config.parent))
    if asked.repo.name == "merged":
        asked.step("compare", lambda: compare([str(folder), asked.repo.partner or asked.world.partner], [TEXTS[0]]))
    recipe = folder / "fusehub_recipe.yaml"
    if recipe.exists():
        asked.step("plan", lambda: plan_merge(Recipe.read(recipe)))


def _recipe(asked: Asked) -> None:
    file, out = asked.folder / "recipe.yaml", asked.place / "out"
    recipe = asked.step("read", lambda: Recipe.read(file))
    if recipe is None:
        return
    plan = asked.step("plan", lambda: plan_merge(recipe))
    again = asked.step("write", lambda: Recipe.parse(_yaml(recipe.to_yaml())))
    if plan is not None and again is not None and again.model_dump() != recipe.model_dump():
        asked.fail("another recipe", "write", recipe.to_yaml()[:300])
    done = plan and asked.step("merge", lambda: merge(plan, out))
    if done is None:
        if out.exists() or list(asked.place.glob(".*")):
            asked.fail("left", "merge", str([path.name for path in asked.place.iterdir()]))
        return
    for config in out.rglob("config.json"):
        answer = asked.step("loads", lambda config=config: oracles.says(oracles.loaded(config.parent)))
        if answer is not None and not bool(torch.isfinite(answer).all()):
            asked.fail("merged is not finite", "merge", str(recipe.parameters))
    _judge_folder(asked, out)


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _data(asked: Asked) -> None:
    """Rows: read with and without labels; of texts, statistics too."""
    task = asked.repo.task
    file = next(iter(asked.repo.files))
    source = str(asked.folder / file)
    for need in (False, True) if task == "text-classification" and file != "data.txt" else (False,):
        examples = asked.step("read", lambda need=need: load_examples(source, task, need_labels=need))
        if examples is not None:
            _judge_rows(asked, examples, need)
    if task == "text-classification":
        made = asked.step("collect", lambda: collect(str(asked.world.experts[0]), source, asked.place / "made"))
        if made is not None:
            made.close()


def _judge_rows(asked: Asked, examples: Any, need: bool) -> None:
    """Rows must be texts, each with its label where there are any, that JSON and files can hold."""
    kinds = {"text-classification": str | tuple, "token-classification": list, "question-answering": tuple}
    for text in examples.texts:
        if asked.repo.task in kinds and not isinstance(text, kinds[asked.repo.task]):
            asked.fail("rows of another kind", "read", repr(text)[:200])
            return
    try:
        said = json.dumps([str(text) for text in examples.texts], ensure_ascii=False).encode()
        json.dumps(examples.labels, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        asked.fail("rows that nothing can hold", "read", str(error))
        return
    if examples.labels is not None and len(examples.labels) != len(examples.texts):
        asked.fail("labels of other rows", "read", f"{len(examples.labels)} for {len(examples.texts)}")
    if need and examples.labels is None:
        asked.fail("no labels", "read", str(said[:100]))
