"""The command line: exit codes, words, JSON; and that help costs nothing."""

import contextlib
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.experts import relatives
from tests.unit.tiny import tiny_model, tiny_texts

COMMANDS = [
    "find",
    "check",
    "collect",
    "inspect",
    "merge",
    "methods",
    "compare",
    "preview",
    "evaluate",
    "layers",
    "publish",
    "hub",
    "demo",
]


def run(*arguments: object) -> tuple[int, str, str]:
    from fusehub.cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two experts of one base with their labels in different orders, and labelled texts."""
    return relatives(tmp_path_factory.mktemp("experts"), labels=[("negative", "positive"), ("positive", "negative")])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    labels = ["negative", "positive"]
    rows = [{"text": text, "label": labels[number % 2]} for number, text in enumerate(tiny_texts(24))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def statistics(experts: list[Path], texts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for number, expert in enumerate(experts):
        folder = tmp_path_factory.mktemp("statistics") / str(number)
        code, _, said = run("collect", expert, "--data", texts, "--limit", 12, "--seed", number, "--out", folder)
        assert code == 0, said
        folders.append(folder)
    return folders


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: fusehub {command}" in " ".join(out.split())


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    probe = (
        "import sys; from typer.testing import CliRunner; from fusehub.cli.main import app\n"
        "assert CliRunner().invoke(app, ['merge', '--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['merge', '--no-such-option']).exit_code == 2\n"
        "print([name for name in ('torch', 'transformers', 'gradio', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["check", "--no-such-option", "a/b", "c/d"],
        ["merge", "a/b", "c/d"],
        ["merge", "a/b", "c/d", "--out", "x", "--param", "alpha"],
        ["compare", "a/b"],
        ["collect", "a/b", "--data", "x"],
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: list[str]) -> None:
    code, _, said = run(*arguments)
    assert code == 2
    assert "Error" in said


def test_an_unknown_method_and_an_unknown_option_name_the_closest_one(experts: list[Path], tmp_path: Path) -> None:
    code, _, said = run("merge", *experts, "--method", "regmaen", "--out", tmp_path / "x")
    assert code == 1
    assert "Did you mean 'regmean'?" in said
    code, _, said = run("merge", *experts, "--param", "alhpa=1", "--out", tmp_path / "x")
    assert code == 1
    assert "Did you mean 'alpha'?" in said
    assert not (tmp_path / "x").exists()


def test_an_error_as_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    code, out, said = run("check", tmp_path / "nowhere", tmp_path / "nothing", "--json")
    assert code == 1
    assert json.loads(out)["error"]["kind"] == "NotFound"
    assert said == ""


def test_check_tells_differences_and_ends_with_1(experts: list[Path], tmp_path: Path) -> None:
    code, out, _ = run("check", *experts, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    other = tiny_model(tmp_path / "distilbert", "distilbert")
    code, _, said = run("check", experts[0], other)
    assert code == 1
    assert "different architectures" in said


def test_regmean_differs_from_the_mean(experts: list[Path], statistics: list[Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    said = [
        word for pair in zip(experts, statistics, strict=True) for word in ("--statistics", f"{pair[0]}={pair[1]}")
    ]
    code, out, err = run("merge", *experts, *said, "--out", tmp_path / "regmean", "--json")
    assert code == 0, err
    assert json.loads(out)["method"] == "regmean"
    assert run("merge", *experts, "--method", "mean", "--out", tmp_path / "mean")[0] == 0
    solved, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("regmean", "mean"))
    differing = {name for name in mean if not mean[name].equal(solved[name])}
    from fusehub.models.layout import layout_of
    from fusehub.models.resolve import resolve
    from fusehub.models.tasks import load_config

    linears = set(layout_of(load_config(resolve(str(experts[0])))).linears)
    assert differing == linears


def test_a_dry_run_lists_every_tensor_and_writes_nothing(experts: list[Path], tmp_path: Path) -> None:
    code, out, _ = run("merge", *experts, "--method", "mean", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert {tensor["action"] for tensor in plan["tensors"]} == {"combine"}
    assert plan["cost"]["output_bytes"] > 0
    code, out, said = run("merge", *experts, "--method", "mean", "--dry-run", "--out", tmp_path / "x")
    assert code == 0
    assert "classifier.weight" in out
    assert "Download 0 B" in said
    assert not (tmp_path / "x").exists()


def test_the_written_recipe_gives_the_same_bytes(experts: list[Path], tmp_path: Path) -> None:
    assert run("merge", *experts, "--method", "mean", "--weight", f"{experts[0]}=3", "--out", tmp_path / "a")[0] == 0
    assert run("merge", tmp_path / "a" / "fusehub_recipe.yaml", "--out", tmp_path / "b")[0] == 0
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_folder_that_is_not_empty_is_left_alone(experts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    code, _, said = run("merge", *experts, "--method", "mean", "--out", tmp_path)
    assert code == 1
    assert "not empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_used_is_said_in_words(experts: list[Path], texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for command in (
        ["merge", *experts, "--method", "mean", "--out", tmp_path / "file" / "merged"],
        ["evaluate", *experts, "--data", f"films={texts}", "--out", tmp_path / "file" / "scores.json"],
        ["collect", experts[0], "--data", texts, "--out", tmp_path / "file" / "statistics"],
    ):
        code, out, said = run(*command)
        assert code == 1, said
        assert "Not a directory" in said and out == ""
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_is_not_there_is_said_before_anything_is_asked_of_the_hub(tmp_path: Path) -> None:
    code, _, said = run("publish", tmp_path / "nowhere", "you/name")
    assert code == 1
    assert "There is no finished model in" in said


def test_compare_shows_all_models_and_where_they_disagree(experts: list[Path]) -> None:
    code, out, _ = run("compare", *experts, "--ensemble", "--text", "a good film", "--json")
    assert code == 0
    answers = json.loads(out)["texts"][0]["answers"]
    assert [answer["model"] for answer in answers] == [*(path.name for path in experts), "ensemble"]
    code, out, _ = run("compare", *experts, "--text", "a [b]good[/b] film")
    assert "a [b]good[/b] film" in out
    assert all(path.name in out for path in experts)


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_a_merge_says_to_do_next_can_be_done(tasks: int, experts: list[Path], tmp_path: Path) -> None:
    models = [shutil.copytree(path, tmp_path / path.name) for path in experts]
    if tasks == 2:
        models[1] = tiny_model(tmp_path / "tagger", task="token-classification", labels=("O", "B-PER"), hidden=16)
    code, _, said = run("merge", *models, "--method", "mean", "--allow-unrelated", "--out", tmp_path / "merged")
    assert code == 0
    lines = [line.removeprefix("next:").strip() for line in said[said.index("next:") :].splitlines()]
    compared = [shlex.split(line)[1:] for line in lines if line.startswith("fusehub compare")]
    assert len(compared) == tasks and lines[-1].startswith(f"fusehub publish {tmp_path / 'merged'}")
    for arguments in compared:
        code, _, told = run(*arguments)
        assert code == 0, told


def test_evaluate_prints_a_table_and_writes_scores(experts: list[Path], texts: Path, tmp_path: Path) -> None:
    code, out, _ = run("evaluate", *experts, "--data", f"films={texts}", "--out", tmp_path / "scores.json")
    assert code == 0
    assert "films" in out
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert [score["examples"] for score in scores] == [24, 24]


def test_a_merge_called_mean_and_the_average_over_the_data_are_told_apart(
    experts: list[Path], texts: Path, tmp_path: Path
) -> None:
    merged = shutil.copytree(experts[0], tmp_path / "mean")
    code, out, _ = run("evaluate", merged, experts[1], "--data", f"films={texts}", "--data", f"again={texts}")
    assert code == 0
    _, heads, row, *_ = out.splitlines()
    assert heads.rstrip().endswith("  on average") and "mean" not in heads and row.startswith("mean "), out


def test_columns_are_named_for_each_data_set_and_seen_before(experts: list[Path], tmp_path: Path) -> None:
    rows = [{"text": "a good film", "note": "x", "verdict": "positive"}, {"text": "", "note": "y", "verdict": "z"}]
    films, shops = tmp_path / "films.jsonl", tmp_path / "shops.jsonl"
    films.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    shops.write_text("".join(json.dumps({"label" if key == "verdict" else key: own for key, own in row.items()}) + "\n"
                             for row in rows[:1]))  # fmt: skip
    code, out, said = run("preview", films, *experts)
    assert code == 1 and "no column looks like labels" in said and "verdict" in out
    code, out, said = run("preview", films, *experts, "--label-column", "verdict")
    assert code == 0 and "positive = positive" in said and "columns of texts are often called so" in out
    data = ["--data", f"films={films}", "--data", f"shops={shops}", "--label-column", "films=verdict"]
    code, out, said = run("evaluate", *experts, *data, "--json")
    assert code == 0, said
    assert {score["data"] for score in json.loads(out)["scores"]} == {"films", "shops"}
    code, out, said = run(
        "evaluate", *experts, *data, "--text-column", "shops=note", "--text-column", "a", "--text-column", "b"
    )
    assert code == 2 and "name one column" in said


def test_inspect_shows_rows_and_refuses_what_is_no_sum_of_squares(statistics: list[Path], tmp_path: Path) -> None:
    import shutil

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    code, out, _ = run("inspect", statistics[0], "--json")
    assert code == 0
    told = json.loads(out)
    assert all(layer["rows"] > 0 for layer in told["layers"])
    assert [finding["code"] for finding in told["findings"]] == ["few-texts"] and told["metadata"]["examples"] < 100
    folder = Path(shutil.copytree(statistics[0], tmp_path / "broken"))
    path = folder / "statistics.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("query.weight.S"))
    tensors[name][1] *= 1e4
    save_file(tensors, path, metadata)
    code, _, said = run("inspect", folder)
    assert code == 1
    assert name in said


def test_statistics_are_made_smaller_without_a_model(experts: list[Path], texts: Path, tmp_path: Path) -> None:
    code, _, said = run("collect", experts[0], "--data", texts, "--size", "full", "--out", tmp_path / "full")
    assert code == 0, said
    code, out, said = run(
        "collect", "--from", tmp_path / "full", "--size", "tiny", "--out", tmp_path / "tiny", "--json"
    )
    assert code == 0, said
    assert json.loads(out)["size"] == "tiny"
    code, out, said = run("inspect", tmp_path / "tiny")
    assert code == 0 and "stored as" in out
    assert "warning: The statistics of" in said
    assert "tiny: " in said and "of the model's weights" in said
    code, _, said = run("collect", "--from", tmp_path / "tiny", "--size", "half", "--out", tmp_path / "half")
    assert code == 1 and "tiny already: half would not be smaller" in said
    for wrong in (
        ["--from", tmp_path / "full", "--data", texts],
        ["--from", tmp_path / "full", "--add"],
        ["--from", tmp_path / "full", experts[0]],
        ["--data", texts],
    ):
        assert run("collect", *wrong, "--out", tmp_path / "wrong")[0] == 2
    assert not (tmp_path / "wrong").exists()


def test_a_command_that_is_interrupted_says_so_and_leaves_nothing(experts: list[Path], tmp_path: Path) -> None:
    """SIGTERM and Ctrl-C in a terminal whose progress bar shows that the command is at work: the same clean end."""
    texts = tmp_path / "many.txt"
    texts.write_text("\n".join(tiny_texts(8000, longest=60)))
    for sent in (signal.SIGINT, signal.SIGTERM):
        terminal, end = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "fusehub", "collect", experts[0], "--data", texts, "--out", tmp_path / "out"],
            stderr=end,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
            # Programs that a script starts in the background, such as these tests, ignore Ctrl-C, and so do theirs.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(end)
        said = b""
        # Reading fails when the other end is closed: when the process is gone.
        with contextlib.suppress(OSError):
            while b"Reading texts" not in said:
                said += os.read(terminal, 4096)
            process.send_signal(sent)
            while more := os.read(terminal, 4096):
                said += more
        os.close(terminal)
        assert process.wait() == 128 + sent, said.decode()
        assert said.count(b"Interrupted. Nothing half-made was left behind.") == 1
        assert b"Traceback" not in said
        assert not (tmp_path / "out").exists()


def test_options_work_by_their_old_names_and_say_what_they_are_called_now(experts: list[Path]) -> None:
    for old, new in (("--public", "--no-private"), ("--pull-request", "--create-pr")):
        code, _, said = run("publish", experts[0] / "nothing", "ann/none", old)
        assert code == 1 and f"{old} is called {new} now" in said
        assert old not in run("publish", "--help")[1]
    assert "--pull-request is called --create-pr now" in run("collect", experts[0], "--pull-request", "--data", "x")[2]


def test_a_revision_is_said_where_one_model_is_meant(experts: list[Path], tmp_path: Path) -> None:
    collect = ("collect", experts[0], "--revision", "v1", "--out", tmp_path / "out")
    code, _, said = run(*collect, "--data", "texts.csv")
    assert code == 1 and "has no revisions" in said
    assert run(*collect, "--import", experts[0])[0] == 1
    assert run(*collect, experts[1], "--add")[0] == 2
