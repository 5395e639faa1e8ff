"""What transformers (and peft) say of a changed repo: what FuseHub's answers are held against where they are new."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.reliability.fuzzing.worlds import TEXTS, Repo

IDS = torch.tensor([[2, 9, 31, 7, 3]])


def loaded(folder: Path, config_of: Path | None = None) -> Any:
    """The model in a folder, whole; raises what transformers raises, and ValueError where something is missing."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(config_of or folder, local_files_only=True)
    kind = getattr(transformers, config.architectures[0])
    model, loading = kind.from_pretrained(folder, config=config, local_files_only=True, output_loading_info=True)
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(f"missing: {loading['missing_keys']}")
    return model.eval()


def stranger(repo: Repo, folder: Path) -> Any:
    """The changed model; of an adapter, what peft makes of it on its base."""
    if repo.base is None:
        return loaded(folder)
    import peft

    return peft.PeftModel.from_pretrained(loaded(repo.base), str(folder)).merge_and_unload()


def partner(repo: Repo) -> Any:
    """The model that it is merged with."""
    base, _, own = repo.partner.partition("+")
    if not own:
        return loaded(Path(base))
    import peft

    return peft.PeftModel.from_pretrained(loaded(Path(base)), own).merge_and_unload()


def says(model: Any) -> torch.Tensor:
    """What a model says about tokens, or pixels, that are always the same."""
    with torch.inference_mode():
        if model.main_input_name == "pixel_values":
            size = model.config.image_size
            pixels = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
            return model(pixel_values=pixels.to(model.dtype), return_dict=True).logits.float()
        more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
        return model(input_ids=IDS, return_dict=True, **more).logits.float()


def mean_of(one: Any, other: Any, merged: Any) -> dict[str, torch.Tensor]:
    """The mean of two models' parameters, float64, with rows of labels by their names as `merged` has them.

    Raises ValueError where it has a row that is neither's.
    """
    states = [dict(model.state_dict()) for model in (one, other)]
    labels = [_names(model) for model in (one, other, merged)]
    expected = {}
    for name, value in merged.state_dict().items():
        own = [state[name].double() for state in states if name in state]
        rows = len(labels[2])
        if value.ndim and value.shape[0] == rows and name.startswith(("classifier.", "score.")) and rows > 1:
            by_name = [{label: state[name][row].double() for row, label in known.items() if row < len(state[name])}
                       for state, known in zip(states, labels, strict=False)]  # fmt: skip
            made = []
            for row in range(rows):
                known = [table[labels[2][row]] for table in by_name if labels[2][row] in table]
                if not known:
                    raise ValueError(f"neither has a row of {labels[2][row]!r}")
                made.append(torch.stack(known).mean(0))
            expected[name] = torch.stack(made)
        elif len(own) == 2 and own[0].shape == own[1].shape:
            expected[name] = own[0] if not value.is_floating_point() else (own[0] + own[1]) / 2
    return expected


def _names(model: Any) -> dict[int, str]:
    """What the rows of a head are called; numbers may be names, and neither case nor spaces around one matter."""
    return {row: str(label).strip().casefold() for row, label in model.config.id2label.items()}


def unlike(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]
) -> str | None:
    """The first parameter of `state` that is not what is expected, up to the coarsest precision that is `stored`."""
    eps = max(torch.finfo(value.dtype).eps for value in stored.values() if value.is_floating_point())
    for name, wanted in expected.items():
        value = state[name].double()
        if not state[name].is_floating_point():
            continue
        if not torch.allclose(value, wanted, rtol=8 * eps + 1e-5, atol=float(8 * eps + 1e-6), equal_nan=True):
            return f"{name} is off by {float((value - wanted).abs().max()):.3g}"
    return None


def max_length(tokenizer: Any, model: Any) -> int:
    """How many tokens of a text are read: no more than model and tokenizer say, where a text fits into that."""
    special, said = tokenizer.num_special_tokens_to_add(), tokenizer.model_max_length
    own = said if isinstance(said, int | float) and said > special else 512
    return int(min(model.config.max_position_embeddings, 512, own))


def probabilities(model: Any, folder: Path, text: str = TEXTS[0]) -> dict[str, float]:
    """Those of a model that tells texts apart, by label, with the tokenizer in `folder`."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    limit = max_length(tokenizer, model)
    with torch.inference_mode():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0].float()
    problem = model.config.problem_type or ("regression" if len(logits) == 1 else "single_label_classification")
    kinds = {"regression": lambda x: x, "multi_label_classification": torch.sigmoid}
    values = kinds.get(problem, lambda x: x.softmax(-1))(logits)
    return {str(model.config.id2label[row]): float(value) for row, value in enumerate(values)}
