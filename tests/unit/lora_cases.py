"""LoRA adapters of every kind, made with peft, and what peft itself makes of them."""

import peft
import torch
import transformers
from safetensors.torch import load_file

from fusehub.models.layout import layout_of
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from tests.unit.experts import WEIGHTS

ADAPTER = "adapter_model.safetensors"


def adapter(folder, base, *, seed=0, auto=transformers.AutoModelForSequenceClassification, **said):
    """A peft adapter with random numbers in all of its tensors; the folder, and what peft makes of it."""
    model = auto.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**({"task_type": "SEQ_CLS", "r": 4} | said)))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                size = 0.2 if "magnitude" not in name else 0.05
                parameter.add_(size * torch.randn(parameter.shape, generator=random).to(parameter.dtype))
    wrapped.save_pretrained(folder)
    return folder, wrapped.merge_and_unload().state_dict()


CASES = {
    "plain": ("bert", {"target_modules": ["query", "value"]}),
    "rslora": ("bert", {"target_modules": ["query"], "use_rslora": True, "lora_alpha": 16}),
    "patterns": (
        "bert",
        {
            "target_modules": ["query", "dense"],
            "rank_pattern": {"layer.0.attention.self.query": 2, "^bert.pooler.dense": 3},
            "alpha_pattern": {"query": 5, r"layer\.1\.output\.dense": 32},
        },
    ),
    "expression": ("bert", {"target_modules": r".*\.layer\.1\..*(query|dense)"}),
    "excluded": ("bert", {"target_modules": ["query", "dense"], "exclude_modules": ["output.dense", "pooler.dense"]}),
    "some layers": ("bert", {"target_modules": ["query", "dense"], "layers_to_transform": [1]}),
    "one layer": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"}),
    "embeddings": ("bert", {"target_modules": ["word_embeddings", "query"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "dora": ("bert", {"target_modules": ["query", "dense"], "use_dora": True}),
    "dora conv1d": ("gpt2", {"target_modules": ["c_attn"], "use_dora": True, "fan_in_fan_out": True}),
    "bias all": ("bert", {"target_modules": ["query"], "bias": "all"}),
    "bias lora_only": ("bert", {"target_modules": ["query"], "bias": "lora_only"}),
    "lora_bias": ("bert", {"target_modules": ["query"], "lora_bias": True}),
    "modules_to_save": ("bert", {"target_modules": ["query"], "modules_to_save": ["classifier", "pooler"]}),
    "llama": ("llama", {"target_modules": "all-linear"}),
    "words": ("bert", {"target_modules": ["query"], "task_type": "TOKEN_CLS"}),
    "answers": ("bert", {"target_modules": ["query"], "task_type": "QUESTION_ANS"}),
    "causal": ("gpt2", {"target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}),
    "causal llama": ("llama", {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}),
    "mixture": ("qwen3_moe", {"target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM"}),
    "encoder and decoder": ("t5", {"target_modules": ["q", "wo"], "task_type": "SEQ_2_SEQ_LM"}),
    "bart": ("bart", {"target_modules": ["q_proj", "fc1"], "task_type": "SEQ_2_SEQ_LM"}),
    "images": ("vit", {"target_modules": ["q_proj"], "modules_to_save": ["classifier"], "task_type": None}),
}
TASK_OF = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    None: "image-classification",
}


def in_file(tensors, base):
    """A model's tensors by the names that they have in the file of `base`, taken apart where it has their parts."""
    layout = layout_of(load_config(resolve(str(base))))
    found = {}
    for name, parameter in layout.names(load_file(base / WEIGHTS)).items():
        part = layout.parts.get(parameter)
        found[name] = tensors[part.parameter][part.expert, part.start : part.stop] if part else tensors[parameter]
    return found
