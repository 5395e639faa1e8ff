"""Fisher diagonals against a plain loop over examples and labels with autograd, in float64."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers

from fusehub.collecting.fisher import gradient_rules
from fusehub.collecting.fisher.collector import FisherCollector
from fusehub.collecting.fisher.scores import EXACT_LABELS, Asked, Scores, softmax_factor
from tests.unit.experts import rel

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": SIZE,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 40},
    "albert": SIZE | {"embedding_size": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32},
    "llama": SIZE,
    "roberta": SIZE,
    "gemma": SIZE | {"head_dim": 8, "num_key_value_heads": 1},
    "modernbert": SIZE,
    "deberta-v2": SIZE
    | {"relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "share_att_key": True}
    | {"norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16, "type_vocab_size": 0},
    "t5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "d_kv": 8, "vocab_size": 40},
    "bart": {
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 40},
        **{
            f"{side}_{what}": n
            for side in ("encoder", "decoder")
            for what, n in (("attention_heads", 2), ("ffn_dim", 24))
        },
    },
    "vit": {key: SIZE[key] for key in SIZE if key != "vocab_size"} | {"image_size": 8, "patch_size": 4},
    "mixtral": SIZE
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1, "experts_implementation": "eager"},
}
HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
}
EXAMPLES = 7


def model_of(arch, task="text-classification", **settings):
    """A small random model in float64, whose biases and norms are not at 0 and 1."""
    special = {} if arch == "vit" else SPECIAL | {"decoder_start_token_id": 0}
    config = transformers.AutoConfig.for_model(arch, **CONFIGS[arch] | special | {"initializer_range": 0.3} | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, HEADS[task]).from_config(config).double()
        with torch.no_grad():
            for own in model.parameters():
                own.add_(0.1 * torch.randn_like(own))
    return model.eval()


def batch_of(model, task, rows=None, side="right"):
    """The inputs of some examples, of different lengths, with no more padding than they need."""
    rows = list(range(EXAMPLES) if rows is None else rows)
    random = torch.Generator().manual_seed(1)
    if task == "image-classification":
        return {"pixel_values": torch.randn(EXAMPLES, 3, 8, 8, generator=random, dtype=torch.float64)[rows]}
    batch = _tokens([3 + 2 * i for i in range(EXAMPLES)], rows, random, side)
    if task == "text2text-generation":
        decoder = _tokens([8 - i for i in range(EXAMPLES)], rows, random, side)
        batch |= {f"decoder_{name}": value for name, value in decoder.items()}
    return batch


def _tokens(lengths, rows, random, side):
    texts = [torch.randint(3, 40, (length,), generator=random) for length in lengths]
    width = max(lengths[row] for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(0, lengths[row]) if side == "right" else slice(width - lengths[row], width)
        ids[number, place], mask[number, place] = texts[row], 1
    return {"input_ids": ids, "attention_mask": mask}


def fisher_of(model, task, size=EXAMPLES, side="right", rows=range(EXAMPLES), **options):
    with FisherCollector(model, task, **options) as fisher:
        fisher.probe(batch_of(model, task, side=side))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            fisher.run(batch_of(model, task, part, side=side), part)
    return fisher


def expected(model, task):
    """A loop over examples and labels: Σ_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ)²."""
    sums = {name: torch.zeros_like(own) for name, own in model.named_parameters()}
    for row in range(EXAMPLES):
        for chance, log in _log_likelihoods(model, model(**batch_of(model, task, [row])).logits[0]):
            found = torch.autograd.grad(log, list(model.parameters()), retain_graph=True, allow_unused=True)
            for name, own in zip(sums, found, strict=True):
                if own is not None:
                    sums[name] += chance * own.detach() ** 2
    return sums


def _log_likelihoods(model, logits):
    kind = model.config.problem_type
    if kind == "multi_label_classification":
        # Labels are independent: every combination of them, with its probability.
        for bits in range(2 ** len(logits)):
            signs = torch.tensor([1.0 if bits >> k & 1 else -1.0 for k in range(len(logits))])
            log = torch.nn.functional.logsigmoid(signs * logits).sum()
            yield log.exp().detach(), log
    elif kind == "regression":
        for number in logits:
            for error in (-1.0, 1.0):  # Any error of mean 0 and variance 1 gives the normal distribution's square.
                yield 0.5, -0.5 * (number - number.detach() - error) ** 2
    else:
        for log in logits.log_softmax(-1):
            yield log.exp().detach(), log


def assert_same(found, sums, tolerance=1e-9):
    assert found.keys() == sums.keys()
    largest = max(float(own.max()) for own in sums.values())
    for name, own in sums.items():
        assert (found[name] - own).abs().max() <= tolerance * own.max() + 1e-24 * largest, name


EXACT = ("bert", "distilbert", "albert", "gpt2", "roberta", "deberta-v2")
FAST = ("bert", "distilbert", "albert", "gpt2", "llama", "roberta", "modernbert")


@pytest.mark.parametrize("arch", [*FAST, "gemma", "deberta-v2", "mixtral"])
def test_squares_are_those_of_a_loop_over_examples_and_labels_whatever_the_batch(arch):
    model = model_of(arch, num_labels=3)
    sums = expected(model, "text-classification")
    assert sum(bool(own.any()) for own in sums.values()) > 0.8 * len(sums)
    for size in (1, 3, EXAMPLES):
        fisher = fisher_of(model, "text-classification", size)
        assert fisher.examples == EXAMPLES and fisher.kind == "exact"
        # Llama's relatives take means of squares in float32 even where all else is float64.
        assert_same(fisher.sums, sums, 1e-9 if arch in EXACT else 1e-5)
    assert bool(fisher.one_by_one) == (arch not in FAST), fisher.one_by_one


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("arch", ["bert", "vit"])
def test_labels_that_are_independent_and_numbers_have_their_own_distributions(arch, kind):
    task = "image-classification" if arch == "vit" else "text-classification"
    model = model_of(arch, task, num_labels=3, problem_type=kind)
    fisher = fisher_of(model, task, 3)
    assert fisher.kind == "exact" and not fisher.one_by_one
    assert_same(fisher.sums, expected(model, task))


def test_images_are_told_apart():
    model = model_of("vit", "image-classification", num_labels=4)
    fisher = fisher_of(model, "image-classification", 3)
    assert not fisher.one_by_one and fisher.sums["vit.embeddings.cls_token"].any()
    assert_same(fisher.sums, expected(model, "image-classification"))


@pytest.mark.parametrize(
    ("arch", "task"),
    [
        ("bert", "token-classification"),
        ("distilbert", "question-answering"),
        ("bert", "fill-mask"),
        ("gpt2", "text-generation"),
        ("t5", "text2text-generation"),
        ("bart", "text2text-generation"),
    ],
)
def test_labels_that_are_drawn_depend_on_the_example_not_on_its_batch(arch, task):
    model = model_of(arch, task)
    one = fisher_of(model, task, 1, samples=2, seed=5)
    # Alone means without padding; by autograd, nothing of what is tested is used.
    loop = FisherCollector(model, task, samples=2, seed=5)
    with loop:
        loop._probed = True
        for row in range(EXAMPLES):
            loop.run(batch_of(model, task, [row]), [row])
    assert one.kind == "sampled" and one.description["samples"] == 2 and one.description["seed"] == 5
    assert_same(one.sums, loop.sums, 1e-6)
    for size in (3, EXAMPLES):
        assert_same(fisher_of(model, task, size, samples=2, seed=5).sums, one.sums, 1e-6)
    other = fisher_of(model, task, 3, samples=2, seed=6)
    everything = [torch.cat([own.flatten() for own in found.sums.values()]) for found in (other, one)]
    assert rel(*everything) > 0.05
    assert bool(one.one_by_one) == (arch == "t5"), one.one_by_one


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification", "regression"])
def test_many_draws_come_close_to_the_exact_expectation(kind):
    model = model_of("bert", num_labels=3, problem_type=kind)
    exact = fisher_of(model, "text-classification").sums
    drawn = fisher_of(model, "text-classification", samples=150).sums
    for name in ("classifier.weight", "bert.encoder.layer.0.output.dense.weight"):
        assert rel(drawn[name], exact[name]) < 0.25, name


def test_many_labels_are_drawn_unless_said():
    model = model_of("bert", num_labels=EXACT_LABELS + 1)
    assert FisherCollector(model, "text-classification").kind == "sampled"
    model = model_of("bert", num_labels=EXACT_LABELS)
    assert FisherCollector(model, "text-classification").kind == "exact"
    assert FisherCollector(model, "text-classification", samples=1).kind == "sampled"


@pytest.mark.parametrize(("arch", "task"), [("llama", "text-generation"), ("t5", "text2text-generation")])
def test_padding_on_the_left_changes_as_little_as_on_the_right(arch, task):
    """Models that know distances between tokens only, so that sides can be compared."""
    model = model_of(arch, task)
    sides = [fisher_of(model, task, 3, side=side).sums for side in ("left", "right")]
    assert_same(*sides, 1e-4)


@pytest.mark.parametrize("task", ["fill-mask", "text-generation"])
def test_a_tied_table_sums_its_uses_before_it_squares(task):
    model = model_of("bert" if task == "fill-mask" else "gpt2", task, tie_word_embeddings=True)
    fisher = fisher_of(model, task, 3)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert table is head and not fisher.one_by_one
    (name,) = (name for name, own in model.named_parameters() if own is table)
    assert name in fisher.sums and name in fisher.aliases.values() and not fisher.sums.keys() & fisher.aliases.keys()


def test_only_masked_tokens_are_predicted_where_it_is_said_which_they_are():
    model = model_of("bert", "fill-mask")
    batch = batch_of(model, "fill-mask")
    batch["input_ids"][:, 1] = 4
    with FisherCollector(model, "fill-mask", mask_token_id=4) as fisher:
        fisher.probe(batch)
        fisher.run(batch, range(EXAMPLES))
    everything = fisher_of(model, "fill-mask")
    assert fisher.sums["cls.predictions.bias"].sum() < everything.sums["cls.predictions.bias"].sum() / 2


def test_squares_are_not_those_of_a_batchs_mean():
    model = model_of("bert", num_labels=3)
    together = expected(model, "text-classification")
    outputs = model(**batch_of(model, "text-classification")).logits
    labels = outputs.argmax(-1)
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    wrong = torch.autograd.grad(loss, model.bert.pooler.dense.weight)[0] ** 2 * EXAMPLES
    assert wrong.sum() < together["bert.pooler.dense.weight"].sum() / 3


def test_the_model_is_as_before_also_after_an_exception():
    model = model_of("bert", num_labels=3).train()
    model.bert.pooler.eval()
    model.classifier.weight.requires_grad_(False)
    model.classifier.bias.grad = torch.ones(3, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}

    def stop(module, args):
        raise KeyboardInterrupt

    for broken in (False, True):
        with (
            pytest.raises(KeyboardInterrupt) if broken else torch.enable_grad(),
            FisherCollector(model, "text-classification") as fisher,
        ):
            batch = batch_of(model, "text-classification")
            fisher.probe(batch)
            handle = model.classifier.register_forward_pre_hook(stop) if broken else None
            try:
                fisher.run(batch, range(EXAMPLES))
            finally:
                if handle:
                    handle.remove()
        assert modes == {name: module.training for name, module in model.named_modules()}
        assert [name for name, own in model.named_parameters() if not own.requires_grad] == ["classifier.weight"]
        assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())
        assert [name for name, own in model.named_parameters() if own.grad is not None] == ["classifier.bias"]
        assert model.classifier.bias.grad.tolist() == [1, 1, 1]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_operations_without_a_rule_are_found_and_done_one_by_one():
    """A parameter used in a way that no rule knows, and one that only long inputs use."""

    class Odd(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config
            self.power = torch.nn.Parameter(torch.full((3,), 1.3, dtype=torch.float64))
            self.longest = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, **batch):
            outputs = self.model(**batch)
            if self.trick == "power":
                outputs.logits = outputs.logits.sigmoid() ** self.power
            elif batch["input_ids"].shape[1] > 12:
                outputs.logits = outputs.logits * self.longest
            return outputs

    for trick in ("power", "longest"):
        model = Odd(model_of("bert", num_labels=3))
        model.trick = trick
        rows = list(range(EXAMPLES))
        with FisherCollector(model, "text-classification") as fisher:
            fisher.probe(batch_of(model, "text-classification", rows[:3]))
            assert bool(fisher.one_by_one) == (trick == "power")
            for part in (rows[:3], rows[3:]):
                fisher.run(batch_of(model, "text-classification", part), part)
        assert trick in fisher.one_by_one[0]
        reference = {name.removeprefix("model."): own for name, own in fisher.sums.items()}
        assert fisher.sums[trick].any()
        with FisherCollector(model, "text-classification") as loop:
            loop._probed = True
            for row in rows:
                loop.run(batch_of(model, "text-classification", [row]), [row])
        assert len(loop.sums) > 1
        for name, own in loop.sums.items():
            # Where length decides what is computed, it is the batch's own that counts.
            if name != "longest":
                assert rel(reference[name.removeprefix("model.")], own) < 1e-9 or own.max() < 1e-20, name


@pytest.mark.parametrize("task", ["text-classification", "fill-mask"])
def test_parameters_larger_than_the_buffer_are_squared_a_few_rows_at_a_time(monkeypatch, task):
    """With another number of rows left at the end; and one whose rows are looked up, too."""
    model = model_of("bert", task, **({"num_labels": 3} if task == "text-classification" else {}))
    together = fisher_of(model, task, 3).sums
    monkeypatch.setattr(gradient_rules, "_BUFFER", 5 * 16)
    found = fisher_of(model, task, 3)
    assert not found.one_by_one
    assert_same(found.sums, together)


def test_gradients_of_one_example_are_let_go_of_one_by_one(monkeypatch):
    model = model_of("t5", "text2text-generation")
    settle, seen = FisherCollector._settle_one, []

    def settled(fisher, name, gradient):
        seen.append(sum(own.grad is not None for own in model.parameters()))
        settle(fisher, name, gradient)

    monkeypatch.setattr(FisherCollector, "_settle_one", settled)
    assert fisher_of(model, "text2text-generation", 3).one_by_one
    assert len(seen) > 10 and not any(seen)


def test_half_precision_is_refused():
    model = model_of("bert", num_labels=3).to(torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16"), FisherCollector(model, "text-classification"):
        pass


def test_the_factor_of_a_softmax_gives_its_covariance():
    logits = 3 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[0] = torch.tensor([0, 0, 0, 0, 0, 800.0])
    logits[1] = torch.tensor([800.0, 0, 0, 0, 0, 0])
    chances = logits.softmax(-1)
    factor = softmax_factor(chances)
    expected = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None]
    assert factor.shape == (5, 6, 5)
    torch.testing.assert_close(factor @ factor.mT, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("token-classification", [[1, 1, 1, 0], [1, 1, 1, 1]]),
        ("text-generation", [[1, 1, 0, 0], [1, 1, 1, 0]]),  # The last token predicts none that the text has.
        ("text2text-generation", [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ("fill-mask", [[0, 1, 0, 0], [0, 1, 0, 1]]),
    ],
)
def test_only_real_predictions_have_labels(task, expected):
    batch = {
        "input_ids": torch.tensor([[5, 9, 6, 0], [5, 9, 6, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
    }
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = Scores.of(None, task, Asked(1, 0, 9))
    ((outputs, vectors, more),) = scores.vectors(SimpleNamespace(logits=logits), batch, [0, 1])
    assert outputs == [logits] and not more
    assert vectors[0].any(-1).int().tolist() == expected
    # Each is the gradient of the logarithm of one label's probability.
    labels = vectors[0].argmax(-1)
    wanted = torch.nn.functional.one_hot(labels, 6) - logits.softmax(-1)
    for row, column in torch.tensor(expected).nonzero().tolist():
        torch.testing.assert_close(vectors[0][row, column], wanted[row, column])


def test_a_span_begins_and_ends_at_real_tokens():
    batch = {"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}
    start, end = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = Scores.of(None, "question-answering", Asked(1, 0))
    ((_, vectors, _),) = scores.vectors(SimpleNamespace(start_logits=start, end_logits=end), batch, [0, 1])
    for own in vectors:
        assert own[0, 3] == 0 and own[:, :3].all() and own[1, 3] != 0
        torch.testing.assert_close(own.sum(-1), torch.zeros(2, dtype=torch.float64))
