"""What FuseHub does depends on codes, kinds and levels: with other words in every message, it does the same."""

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusehub.cli.start import main
from fusehub.errors import AccessDenied, FuseHubError, NoSpace, NotFound, together
from fusehub.publishing.cards.merge_card import model_card
from fusehub.utils.findings import CODES, Finding
from tests.unit.experts import WEIGHTS, edit_json, relatives, save_weights, with_statistics


def mumbled(text: str) -> str:
    """Other words for each text, none of them ours; nothing for nothing."""
    return f"Mumble {hashlib.sha256(text.encode()).hexdigest()[:12]}" if text else ""


def reword(patch=setattr):
    """Has every finding and every error of this process say something else from here on."""
    plain = FuseHubError.__init__

    def error(self, what, fix, **facts):
        plain(self, mumbled(what), mumbled(fix), **facts)

    def finding(self):
        object.__setattr__(self, "what", mumbled(self.what))
        object.__setattr__(self, "fix", mumbled(self.fix))

    patch(FuseHubError, "__init__", error)
    patch(Finding, "__post_init__", finding)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pairs of models with something to find, by name."""
    home = tmp_path_factory.mktemp("world")
    labels = (("negative", "positive"), ("negative", "positive"))
    plain = with_statistics(relatives(home / "plain", labels=labels))
    pairs = {"plain": tuple(plain), "twice": (plain[0], plain[0])}

    def changed(name, *cards, without=None, tensors=None, **config):
        pair = [Path(shutil.copytree(path, home / name / path.name)) for path in plain]
        for path, (license, base) in zip(pair, cards, strict=False):
            (path / "README.md").write_text(f"---\nlicense: {license}\nbase_model: {base}\n---\n")
        edit_json(pair[1] / "config.json", **config)
        if without:
            (pair[1] / without).unlink()
        if tensors:
            save_weights(pair[1], tensors(load_file(pair[1] / WEIGHTS)))
        pairs[name] = tuple(pair)

    changed("licenses", ("gpl-3.0", "ann/base"), ("cc-by-nc-4.0", "ann/base"))
    changed("no-derivatives", ("cc-by-nd-4.0", "ann/base"), ("mit", "ann/base"))
    changed("unknown license", ("mine", "ann/base"), ("mit", "ann/base"))
    changed("lineage", ("mit", "ann/base"), ("mit", "bob/other"))
    changed("broken card", ("[mit", "x: y: z"))
    changed("config", hidden_act="relu")
    changed("settings", attention_probs_dropout_prob=0.3)
    changed("broken config", id2label=3)
    changed("architecture", architectures=["BertForTokenClassification"])
    changed("no weights", without=WEIGHTS)
    changed("no tokenizer", without="tokenizer.json")
    changed("no names", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    changed("other labels", id2label={0: "Negatives", 1: "positive"}, label2id={"Negatives": 0, "positive": 1})
    changed("fewer labels", id2label={0: "negative"}, label2id={"negative": 0})
    changed("fewer tokens", vocab_size=7)
    changed("wrapped", tensors=lambda own: {f"_orig_mod.{name}": value for name, value in own.items()})
    changed("left over", tensors=lambda own: own | {"more.weight": torch.ones(2, 2)})
    changed("lacking", tensors=lambda own: {name: value for name, value in own.items() if "pooler" not in name})
    changed("narrow", tensors=lambda own: {name: value.half() for name, value in own.items()})
    changed("shapes", tensors=lambda own: own | {"bert.pooler.dense.bias": torch.ones(3)})
    return pairs


def ran(*arguments):
    """Exit code, and what the JSON on stdout says with its words taken out: they are counted instead."""
    out = io.StringIO()
    before, sys.argv = sys.argv, ["fusehub", *map(str, arguments), "--json"]
    try:
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    told = json.loads(out.getvalue())
    said: list[str] = []
    return int(ended.value.code or 0), wordless(told, said), said


def wordless(value, said):
    """`value` without what and fix of findings and errors, which are added to `said`."""
    if isinstance(value, dict):
        said += [value[key] for key in ("what", "fix") if value.get(key)]
        return {key: wordless(own, said) for key, own in value.items() if key not in ("what", "fix", "seconds")}
    return [wordless(own, said) for own in value] if isinstance(value, list) else value


def sections(folder):
    """The front matter of a merge's card, its headings, and how many lines each has."""
    card = model_card(folder)
    lines: dict[str, int] = {}
    heading = ""
    for line in card.text.splitlines():
        heading = line if line.startswith("#") else heading
        lines[heading] = lines.get(heading, 0) + bool(line.strip())
    return card.data.to_dict(), lines


def all_of_it(world, out):
    """What each command ends with on each pair of models, and each card; and all words that were said."""
    found, words = {}, []
    for name, pair in world.items():
        merge = ["merge", *pair, "--method", "mean"]
        ignored = ["--ignore", "config-differs", "--ignore", "lineage-differs"]
        refused = [("plan", [*merge, "--dry-run"]), ("ignoring", [*merge, *ignored, "--out", out / f"{name} ignored"])]
        for called, asked in (("check", ["check", *pair]), ("merge", [*merge, "--out", out / name]), *refused):
            if called in dict(refused) and not found[name, "merge"][0]:
                continue
            code, told, said = ran(*asked)
            found[name, called] = (code, json.loads(json.dumps(told).replace(str(out), "out")))
            words += said
        for folder in (out / name, out / f"{name} ignored"):
            if folder.exists():
                found[name, f"card of {folder.name}"] = sections(folder)
    return found, words


def test_with_other_words_everything_is_done_as_before(world, monkeypatch, tmp_path):
    before, plain = all_of_it(world, tmp_path / "before")
    assert {code for (_, called), (code, _) in before.items() if called == "merge"} == {0, 1}
    assert sum(called.startswith("card") for _, called in before) >= 12
    told = json.dumps([it for (_, called), it in before.items() if called == "check"])
    assert sum(f'"{code}"' in told for code in CODES) >= 18, "findings of many kinds"
    assert not any("Mumble" in text for text in plain)
    reword(monkeypatch.setattr)
    after, said = all_of_it(world, tmp_path / "after")
    assert said and all("Mumble" in text for text in said)
    assert after == before


PUBLISHING = """
import json
from pathlib import Path
from fusehub.errors import FuseHubError
from fusehub.publishing.publish import publish
from tests.unit.test_rewording import reword
told = []
for words in ("plain", "reworded"):
    for number, folder in enumerate(sorted(Path(WORK).iterdir())):
        for private in (True, False):
            try:
                ended = publish(folder, f"merge-{number}-{words}-{private}", private=private).private
            except FuseHubError as error:
                ended = [type(error).__name__, "Mumble" in error.what]
            told.append([words, folder.name, private, ended])
    reword()
print(json.dumps(told))
"""


def test_what_is_refused_to_be_published_is_refused_in_other_words(world, ann, tmp_path):
    for name in ("plain", "licenses", "no-derivatives"):
        assert ran("merge", *world[name], "--method", "mean", "--out", tmp_path / "merged" / name)[0] == 0
    told = json.loads(ann.python(PUBLISHING.replace("WORK", repr(str(tmp_path / "merged")))))
    plain = {(name, private): ended for words, name, private, ended in told if words == "plain"}
    refused = ["LicenseForbids", False]
    assert plain["no-derivatives", False] == plain["no-derivatives", True] == plain["licenses", False] == refused
    assert plain["licenses", True] is True and plain["plain", False] is False
    reworded = {(name, private): ended for words, name, private, ended in told if words == "reworded"}
    assert reworded == {key: [it[0], True] if isinstance(it, list) else it for key, it in plain.items()}


def test_every_finding_that_is_told_has_a_code_of_the_list():
    with pytest.raises(ValueError, match="no kind of finding has the code odd"):
        Finding("odd", "note", "Something.")
    assert all(kind.about for kind in CODES.values())


def test_how_to_log_in_is_said_once_and_as_the_place_has_it():
    from space.render import html
    from space.render.offers import LOG_IN

    denied = AccessDenied("The Hub does not accept your token.", "", log_in=True)
    missing = NotFound("ann/x does not exist.", "Check the spelling. If it is private:", log_in=True)
    assert denied.fix == "Log in with `hf auth login`, or set HF_TOKEN."
    both = together([missing, denied])
    assert str(both).count("hf auth login") == 1 and both.own_fix == missing.own_fix
    shown = html.problem(missing.retold(f"So: {missing.what}"), "Sign in above.")
    assert "If it is private: Sign in above." in shown and "hf auth login" not in shown
    # Where nobody signs in by the page, it is still a page, and names no command.
    assert LOG_IN in html.problem(missing) and "hf auth login" not in html.problem(missing)


def test_errors_cross_to_other_processes_with_all_that_they_tell():
    error = NoSpace("The disk of /x takes no more.", "Make room.")
    error.place = Path("/x")
    error.add_note("while writing")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.place) == (NoSpace, str(error), Path("/x"))
    denied = pickle.loads(pickle.dumps(AccessDenied("No.", "Ask.", log_in=True)))
    assert denied.log_in and denied.fix == "Ask. Log in with `hf auth login`, or set HF_TOKEN."
