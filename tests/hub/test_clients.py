"""transformers, datasets and the `hf` command against the hub, each in a process of its own."""

import json

import pytest
from huggingface_hub import CommitOperationAdd

MODEL = """
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=32, vocab_size=50, max_position_embeddings=16))
model.save_pretrained("out")
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("alice/tiny-bert", private=True, exist_ok=True)
api.upload_folder(repo_id="alice/tiny-bert", folder_path="out")
again = AutoModelForSequenceClassification.from_pretrained("alice/tiny-bert")
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
assert AutoConfig.from_pretrained("alice/tiny-bert", revision="main").hidden_size == 16
again.push_to_hub("alice/tiny-bert-pushed")
info = api.model_info("alice/tiny-bert-pushed")
assert info.safetensors.total == model.num_parameters(), info.safetensors
try:
    AutoConfig.from_pretrained("alice/absent")
except OSError as error:
    assert "not a valid model identifier" in str(error) or "is not a local folder" in str(error), error
else:
    raise SystemExit("a missing model was found")
print("fine")
"""

DATASET = """
from datasets import load_dataset
ds = load_dataset("alice/reviews")
assert {name: len(split) for name, split in ds.items()} == {"train": 3, "test": 1}, ds
assert ds["train"][0] == {"text": "good", "label": 1}
stream = load_dataset("alice/reviews", split="train", streaming=True)
assert [row["text"] for row in stream.take(2)] == ["good", "bad"]
named = load_dataset("alice/reviews", "extra", split="train")
assert list(named["text"]) == ["more"]
try:
    load_dataset("alice/absent-dataset")
except FileNotFoundError:
    print("fine")
"""


def test_transformers_saves_loads_and_pushes(run_python):
    done = run_python(MODEL)
    assert done.returncode == 0 and done.stdout.endswith("fine\n"), done.stdout + done.stderr[-3000:]


def test_datasets_loads_whole_streamed_and_by_config(alice, run_python):
    card = {"default": {"train": "data/train.csv", "test": "data/test.csv"}, "extra": {"train": "extra.csv"}}
    configs = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in card.items()
    ]
    contents = {
        "README.md": f"---\nconfigs: {json.dumps(configs)}\n---\n# Reviews\n",
        "data/train.csv": "text,label\ngood,1\nbad,0\nfine,1\n",
        "data/test.csv": "text,label\nmeh,0\n",
        "extra.csv": "text\nmore\n",
    }
    alice.create_repo("alice/reviews", repo_type="dataset", exist_ok=True)
    add = [CommitOperationAdd(path, text.encode()) for path, text in contents.items()]
    alice.create_commit("alice/reviews", add, commit_message="data", repo_type="dataset")
    done = run_python(DATASET)
    assert done.returncode == 0 and done.stdout.endswith("fine\n"), done.stdout + done.stderr[-3000:]


@pytest.fixture
def hf(run_python):
    def call(*args):
        import sys
        from pathlib import Path

        done = run_python("", command=[str(Path(sys.executable).with_name("hf")), *args])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_the_hf_command(hf, alice, tmp_path):
    assert "alice" in hf("auth", "whoami")
    hf("repos", "create", "alice/by-hf")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "model.safetensors").write_bytes(b"\0" * 3000)
    (tmp_path / "up" / "notes.txt").write_text("notes")
    hf("upload", "alice/by-hf", "up", ".")
    assert {"model.safetensors", "notes.txt"} < set(alice.list_repo_files("alice/by-hf"))
    hf("download", "alice/by-hf", "--local-dir", "down")
    assert (tmp_path / "down" / "notes.txt").read_text() == "notes"
    assert (tmp_path / "down" / "model.safetensors").read_bytes() == b"\0" * 3000
    assert "alice/by-hf" in hf("models", "ls", "--author", "alice", "--search", "by-hf", "-q").splitlines()
    hf("repos", "tag", "create", "alice/by-hf", "v1")
    assert [tag.name for tag in alice.list_repo_refs("alice/by-hf").tags] == ["v1"]
    hf("repos", "delete", "alice/by-hf", "--yes")
    assert not alice.repo_exists("alice/by-hf")
