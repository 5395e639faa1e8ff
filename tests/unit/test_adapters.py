"""LoRA adapters as experts: the numbers are peft's, and nothing of an adapter is ignored."""

import json
import subprocess

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.errors import FuseHubError, Incompatible, NonFinite, NotFound
from fusehub.merging.merge import merge
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers, weight_hashes
from fusehub.models.loading import Spread, load_model
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, edit_json, rel, text_file
from tests.unit.lora_cases import ADAPTER, CASES, TASK_OF, adapter, in_file
from tests.unit.tiny import TASKS, tiny_model
from tests.warm import python


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_on_its_base_is_what_peft_makes_of_it(tmp_path, case):
    arch, said = CASES[case]
    task = TASK_OF[said.get("task_type", "SEQ_CLS")]
    base = tiny_model(tmp_path / "base", arch, task=task)
    folder, expected = adapter(tmp_path / "adapter", base, auto=getattr(transformers, TASKS[task]), **said)
    expected = in_file(expected, base)
    ref = resolve(f"{base}+{folder}")
    stored = load_file(base / WEIGHTS)
    with Checkpoint(ref) as checkpoint:
        assert checkpoint.tensors == headers(ref) and set(checkpoint.tensors) == set(stored)
        changed = sliced = 0
        for name in checkpoint:
            value = checkpoint[name]
            assert torch.equal(value, expected[name]) or rel(value, expected[name]) < 1e-6, name
            changed += not torch.equal(value, stored[name])
            if value.ndim:
                sliced += 1
                assert torch.equal(checkpoint.read(name, 1, 3), value[1:3]), name
    assert sliced >= changed >= len(load_file(folder / ADAPTER)) / 3
    loaded = in_file(load_model(ref).state_dict(), base)
    assert all(rel(loaded[name], expected[name]) < 1e-6 for name in stored if stored[name].any())


@pytest.mark.parametrize("task", ["TOKEN_CLS", "QUESTION_ANS", "SEQ_CLS"])
def test_an_adapter_for_a_task_that_its_base_has_no_head_for_brings_it(tmp_path, task):
    base = tiny_model(tmp_path / "base", "bert", task="fill-mask")
    auto = getattr(transformers, TASKS[TASK_OF[task]])
    folder, expected = adapter(tmp_path / "adapter", base, auto=auto, task_type=task, target_modules=["query"])
    if task == "SEQ_CLS":  # What peft does not save by itself would be drawn anew by whoever loads it.
        with pytest.raises(Incompatible, match=r"lacks bert\.pooler"):
            load_model(resolve(str(folder)))
        saved = ["classifier", "pooler"]
        folder, expected = adapter(
            tmp_path / "whole", base, auto=auto, task_type=task, target_modules=["query"], modules_to_save=saved
        )
    model = load_model(resolve(str(folder)))
    assert type(model).__name__ == auto._model_mapping[type(model.config)].__name__
    assert all(rel(value, expected[name]) < 1e-6 for name, value in model.state_dict().items())


def test_a_head_of_another_size_than_the_bases_has_labels_of_its_own(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, ignore_mismatched_sizes=True
    )
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    loaded = load_model(resolve(str(tmp_path / "adapter")))
    assert loaded.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert rel(loaded.classifier.weight.detach(), model.classifier.modules_to_save["default"].weight.detach()) < 1e-6


def test_names_that_modules_had_in_another_transformers_are_understood(tmp_path):
    """Adapters of ViT that were trained before its modules were renamed."""
    said = {"target_modules": ["q_proj"], "modules_to_save": ["classifier"], "task_type": None}
    base = tiny_model(tmp_path / "base", "vit", task="image-classification")
    auto = transformers.AutoModelForImageClassification
    folder, _ = adapter(tmp_path / "adapter", base, auto=auto, alpha_pattern={"q_proj": 3}, **said)
    with Checkpoint(resolve(str(folder))) as checkpoint:
        expected = {name: checkpoint[name] for name in checkpoint}
    old = {
        name.replace(".layers.", ".encoder.layer.").replace("attention.q_proj", "attention.attention.query"): value
        for name, value in load_file(folder / ADAPTER).items()
    }
    assert any("encoder.layer.0.attention.attention.query.lora_A" in name for name in old)
    save_file(old, folder / ADAPTER)
    edit_json(folder / "adapter_config.json", alpha_pattern={"query": 3}, target_modules=["query"])
    with Checkpoint(resolve(str(folder))) as checkpoint:
        assert all(torch.equal(checkpoint[name], value) for name, value in expected.items())


def test_an_adapter_alone_stands_for_the_base_that_it_names(tmp_path):
    base = tiny_model(tmp_path / "a+base", "bert")
    folder, _ = adapter(tmp_path / "an+adapter", base, target_modules=["query"])
    alone, said = resolve(str(folder)), resolve(f"{base}+{folder}")
    assert alone.name == str(folder) and weight_hashes(alone) == weight_hashes(said)
    assert set(weight_hashes(alone)) == {WEIGHTS, ADAPTER, "adapter_config.json"}
    assert resolve(said.id).id == alone.id, "the name with everything resolved names the same"
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(NotFound, match=r"an adapter on .*gone, which cannot be found.*\n.*BASE\+"):
        resolve(str(folder))
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(NotFound, match="does not name its base"):
        resolve(str(folder))
    with pytest.raises(NotFound, match=r"is no adapter"):
        resolve(f"{base}+{base}")


def test_the_base_of_an_adapter_is_no_adapter_and_not_itself(tmp_path):
    base = tiny_model(tmp_path / "base", "bert", layers=1)
    one, other = (adapter(tmp_path / name, base, target_modules=["query"])[0] for name in ("one", "other"))
    for named in (one, other):
        # Itself; one that names it; one on a base.
        edit_json(one / "adapter_config.json", base_model_name_or_path=str(named))
        edit_json(other / "adapter_config.json", base_model_name_or_path=str(base if named == one else one))
        for name in (one, f"{one}+{other}"):
            with pytest.raises(Incompatible, match="an adapter on an adapter"):
                resolve(str(name))
    edit_json(other / "adapter_config.json", base_model_name_or_path=str(base))
    with pytest.raises(Incompatible, match=f"{one.name}: an adapter on an adapter"):
        resolve(str(one))


def test_adapters_are_merged_collected_checked_and_compared_like_any_expert(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    experts = []
    for number in range(2):
        folder, _ = adapter(tmp_path / f"adapter-{number}", base, seed=number, target_modules=["query", "dense"])
        experts.append(str(folder))
        collect(str(folder), text_file(tmp_path, number), folder / "fusehub").close()
    whole = []
    for number, name in enumerate(experts):
        model = load_model(resolve(name))
        model.save_pretrained(tmp_path / f"whole-{number}")
        resolve(name).tokenizer_ref.path("tokenizer.json")
        for path in resolve(str(base)).side_files():
            (tmp_path / f"whole-{number}" / path).write_bytes((base / path).read_bytes())
        whole.append(str(tmp_path / f"whole-{number}"))
        collect(whole[-1], text_file(tmp_path, number), tmp_path / f"whole-{number}" / "fusehub").close()
    assert check(experts, base=str(base)).ok
    for method, more in (("regmean", {}), ("ties", {"parameters": {"density": 0.5}, "base_model": str(base)})):
        result = merge(experts, tmp_path / method, method=method, **more)
        assert len(result.plan.tensors) == len(load_file(base / WEIGHTS))
        merge(whole, tmp_path / f"{method}-whole", method=method, **more)
        a, b = (load_file(tmp_path / name / WEIGHTS) for name in (method, f"{method}-whole"))
        assert all(rel(value, b[name]) < 2e-3 for name, value in a.items())
        assert any(rel(value, load_file(base / WEIGHTS)[name]) > 0.05 for name, value in a.items())
    assert compare([*experts, str(tmp_path / "regmean")], ["a fine film"])


def test_a_head_that_the_base_has_not_comes_from_the_adapter(tmp_path):
    base = tiny_model(tmp_path / "base", "bert", task="fill-mask")
    folder, expected = adapter(tmp_path / "adapter", base, target_modules=["query"])
    ref = resolve(str(folder))
    assert ref.config["architectures"] == ["BertForSequenceClassification"]
    assert ref.config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    loaded = (
        load_model(resolve(f"{base}+{folder}")) if "bert.pooler.dense.weight" in load_file(base / WEIGHTS) else None
    )
    with Checkpoint(ref) as checkpoint:
        assert rel(checkpoint["classifier.weight"], expected["classifier.weight"]) < 1e-6
    assert loaded is None or loaded.num_labels == 2


def test_bfloat16_bases_keep_the_update_that_their_dtype_would_lose(tmp_path):
    base = tiny_model(tmp_path / "base", "bert", dtype=torch.bfloat16)
    folder, expected = adapter(tmp_path / "adapter", base, target_modules=["query"])
    name = "bert.encoder.layer.0.attention.self.query.weight"
    with Checkpoint(resolve(str(folder))) as checkpoint:
        assert checkpoint[name].dtype == torch.float32 and checkpoint.tensors[name].dtype == "BF16"
        assert rel(checkpoint[name], expected[name]) < 1e-2
    assert load_model(resolve(str(folder))).dtype == torch.bfloat16


def test_an_adapter_on_a_base_larger_than_its_device_is_spread(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    folder, _ = adapter(tmp_path / "adapter", base, target_modules=["query"])
    ref = resolve(str(folder))
    spread = load_model(ref, spread=Spread(tmp_path / "offloaded", {"cpu": 100_000}))
    assert "disk" in spread.hf_device_map.values()
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.allclose(spread(ids).logits, load_model(ref)(ids).logits, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "of the kind LOHA, not LoRA"),
        ({"use_qalora": True}, "uses use_qalora"),
        ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "uses layer_replication"),
        ({"alora_invocation_tokens": [1]}, "uses alora_invocation_tokens"),
        ({"something_new": {"x": 1}}, "uses something_new"),
        ({"init_lora_weights": "pissa"}, "uses init_lora_weights=pissa"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(tmp_path, changes, said):
    base = tiny_model(tmp_path / "base", "bert")
    folder, _ = adapter(tmp_path / "adapter", base, target_modules=["query"])
    edit_json(folder / "adapter_config.json", **changes)
    with pytest.raises(Incompatible, match=said):
        resolve(str(folder))


def test_adapters_that_do_not_fit_their_base_are_refused(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    folder, _ = adapter(tmp_path / "adapter", base, target_modules=["query"])
    wider = tiny_model(tmp_path / "wider", "bert", hidden=64)
    other = tiny_model(tmp_path / "other", "gpt2")
    for model, said in (
        (wider, r"has the shape \[32, 32\], the base has \[64, 64\]|brings"),
        (other, "the base has not"),
    ):
        with pytest.raises(Incompatible, match=said):
            Checkpoint(resolve(f"{model}+{folder}"))
    tensors = load_file(folder / ADAPTER)
    save_file(
        tensors | {"base_model.model.bert.encoder.layer.0.attention.self.query.lora_mu": torch.ones(2)},
        folder / ADAPTER,
    )
    with pytest.raises(Incompatible, match=r"holds .*lora_mu, which plain LoRA has not"):
        Checkpoint(resolve(str(folder)))
    edit_json(base / "config.json", quantization_config={"load_in_4bit": True})
    with pytest.raises(Incompatible, match="is quantised"):
        resolve(str(folder))


def test_the_report_and_the_recipe_name_base_and_adapter(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    experts = [str(adapter(tmp_path / f"adapter-{n}", base, seed=n, target_modules=["query"])[0]) for n in range(2)]
    merge(experts, tmp_path / "out", method="mean")
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert report["models"] == [f"{base}+{name}" for name in experts]


ON_THE_HUB = """
import json, sys
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers, weight_hashes
from fusehub.publishing.publish import publish
from fusehub.models.resolve import resolve
from fusehub.models.loading import load_tokenizer
for name in ("anna/adapter", "anna/base+anna/adapter"):
    ref = resolve(name)
    known = headers(ref)
    with Checkpoint(ref) as checkpoint:
        assert known == checkpoint.tensors
        value = checkpoint["bert.encoder.layer.0.attention.self.query.weight"]
    assert len(load_tokenizer(ref)) > 10
    print(json.dumps([ref.id, float(value.double().sum()), sorted(weight_hashes(ref))]))
"""


def test_base_and_adapter_are_fetched_from_the_hub_each_at_its_commit(tmp_path):
    from huggingface_hub import HfApi, constants

    from fusehub.localhub import running

    constants.HF_HUB_DISABLE_XET = True
    base = tiny_model(tmp_path / "base", "bert")
    folder, expected = adapter(tmp_path / "adapter", base, target_modules=["query"])
    edit_json(folder / "adapter_config.json", base_model_name_or_path="anna/base")
    (folder / "README.md").write_text("# Adapter\n")
    with running(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("anna"))
        commits = {}
        for path in (base, folder):
            api.create_repo(f"anna/{path.name}")
            commits[path.name] = api.upload_folder(repo_id=f"anna/{path.name}", folder_path=path).oid
        environment = hub.env("anna", home=tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run([*python(), "-c", ON_THE_HUB], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone, said = (json.loads(line) for line in done.stdout.splitlines())
    assert alone == said and said[0] == f"anna/base@{commits['base']}+anna/adapter@{commits['adapter']}"
    assert abs(alone[1] - float(expected["bert.encoder.layer.0.attention.self.query.weight"].double().sum())) < 1e-4
    assert alone[2] == ["adapter_config.json", ADAPTER, WEIGHTS]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("mean", {"weights": [1, 3]}),
        ("task_arithmetic", {"weights": [0.7, -0.2], "parameters": {"lambda": 1.5}, "base": True}),
        ("mean", {"scale": 0.5, "base": True}),
    ],
)
def test_a_merge_of_adapters_is_written_as_an_adapter_of_the_same_weights(tmp_path, method, more):
    base = tiny_model(tmp_path / "base", "bert")
    said = [
        {"target_modules": ["query", "dense"], "r": 2, "use_rslora": True},
        {"target_modules": ["query", "word_embeddings"], "r": 3, "lora_alpha": 12},
    ]
    experts = [str(adapter(tmp_path / f"adapter-{n}", base, seed=n, **own)[0]) for n, own in enumerate(said)]
    more = dict(more)
    weights = dict(zip(experts, more.pop("weights", [1, 1]), strict=True))
    if more.pop("base", False):
        more["base_model"] = str(base)
    merge(experts, tmp_path / "whole", method=method, weights=weights, **more)
    written = merge(experts, tmp_path / "small", method=method, weights=weights, as_adapter=True, **more)
    size = (tmp_path / "small" / ADAPTER).stat().st_size
    assert size <= written.plan.cost["output_bytes"] < 2 * size, "heads are counted for each, and written once"
    whole = load_file(tmp_path / "whole" / WEIGHTS)
    small = resolve(str(tmp_path / "small"))
    with Checkpoint(small) as checkpoint:
        assert set(checkpoint.tensors) == set(whole)
        assert all(rel(checkpoint[name], value) < 1e-6 for name, value in whole.items())
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(loaded, tmp_path / "small").merge_and_unload().state_dict()
    assert all(rel(theirs[name], value) < 1e-6 for name, value in whole.items())
    assert json.loads((tmp_path / "small" / "adapter_config.json").read_text())["r"] == 5
    assert compare([*experts, str(tmp_path / "small")], ["a fine film"])


@pytest.mark.parametrize(
    ("arch", "task", "said"),
    [
        ("gpt2", "CAUSAL_LM", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("llama", "SEQ_CLS", {"target_modules": "all-linear"}),
        ("t5", "SEQ_2_SEQ_LM", {"target_modules": ["q", "v"]}),
    ],
)
def test_adapters_of_more_rank_together_than_a_layer_has_are_written_with_its_own(tmp_path, arch, task, said):
    base = tiny_model(tmp_path / "base", arch, task=TASK_OF[task], hidden=16)
    auto = getattr(transformers, TASKS[TASK_OF[task]])
    for number in range(3):
        adapter(tmp_path / f"adapter-{number}", base, auto=auto, seed=number, task_type=task, r=7, **said)
    experts = [str(tmp_path / f"adapter-{number}") for number in range(3)]
    merge(experts, tmp_path / "whole", method="mean")
    merge(experts, tmp_path / "small", method="mean", as_adapter=True)
    tensors = load_file(tmp_path / "small" / ADAPTER)
    ranks = [value.shape[0] for name, value in tensors.items() if "lora_A" in name]
    assert max(ranks) <= 21 and min(ranks) <= 16 and ranks
    whole = load_file(tmp_path / "whole" / WEIGHTS)
    loaded = auto.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(loaded, tmp_path / "small").merge_and_unload().state_dict()
    assert all(rel(theirs[name], value) < 1e-6 for name, value in whole.items())


def test_adapters_in_the_old_format_are_merged_into_one(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    experts = [str(adapter(tmp_path / f"a-{n}", base, seed=n, target_modules=["query"])[0]) for n in range(2)]
    merge(experts, tmp_path / "before", method="mean", as_adapter=True)
    old = tmp_path / "a-1" / ADAPTER
    torch.save(load_file(old), old.with_suffix(".bin"))
    old.unlink()
    written = merge(experts, tmp_path / "after", method="mean", as_adapter=True)
    assert (tmp_path / "after" / ADAPTER).read_bytes() == (tmp_path / "before" / ADAPTER).read_bytes()
    assert written.plan.cost["output_bytes"] >= (tmp_path / "after" / ADAPTER).stat().st_size


def test_an_adapter_that_holds_nan_is_not_merged_into_one(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    experts = [str(adapter(tmp_path / f"a-{n}", base, seed=n, target_modules=["query"])[0]) for n in range(2)]
    tensors = load_file(tmp_path / "a-1" / ADAPTER)
    name = next(name for name in tensors if "lora_B" in name)
    save_file(tensors | {name: tensors[name] * float("nan")}, tmp_path / "a-1" / ADAPTER)
    with pytest.raises(NonFinite, match=r"a-1 on .*lora_B\.weight holds NaN or infinity"):
        merge(experts, tmp_path / "out", method="mean", as_adapter=True)
    assert not (tmp_path / "out").exists()


def test_what_is_no_adapter_any_more_is_not_written_as_one(tmp_path):
    base = tiny_model(tmp_path / "base", "bert")
    plain = str(adapter(tmp_path / "plain", base, target_modules=["query"])[0])
    dora = str(adapter(tmp_path / "dora", base, target_modules=["query"], use_dora=True)[0])
    for models, more, said in (
        ([plain, str(base)], {"method": "mean"}, "is no adapter, so the merge is none"),
        ([plain, dora], {"method": "mean"}, "magnitude of DoRA's"),
        ([plain, plain], {"method": "ties", "base_model": str(base)}, "TIES does not only add updates up"),
        ([plain, plain], {}, "RegMean does not only add updates up.*\n.*--method mean"),
        ([plain, plain], {"method": "mean", "parameters": {"normalize": False}}, "add up to 2: the base itself"),
        (
            [plain, plain],
            {"method": "mean", "parameters": {"normalize": False}, "scale": 0.5, "base_model": str(base)},
            "add up to 2: the base itself",
        ),
        ([plain, dora], {"method": "mean", "weights": {plain: 1, dora: -1}}, "add up to 0, which nothing can be div"),
    ):
        with pytest.raises(FuseHubError, match=said):
            merge(models, tmp_path / "out", as_adapter=True, **more)
        assert not (tmp_path / "out").exists()
