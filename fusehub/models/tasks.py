"""What a model is for, told from its config: the task, its transformers class, and its labels by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, UnsafeFile
from fusehub.models.label_names import read_labels
from fusehub.models.quantised.configs import KEY, float8_of
from fusehub.models.ref import ModelRef
from fusehub.models.transformers_internals import classes_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


TEXTS, WORDS, QUESTIONS = "text-classification", "token-classification", "question-answering"
MASKED, CAUSAL, SEQ2SEQ = "fill-mask", "text-generation", "text2text-generation"
IMAGES = "image-classification"


@dataclass(frozen=True)
class Task:
    """One kind of model: the Hub's `pipeline_tag`, how the names of its architectures end, transformers' auto class.

    `table` is transformers' own list of its architectures, `MODEL_FOR_{table}_MAPPING_NAMES`. `data` says what it is
    given, for a person.
    """

    name: str
    suffixes: tuple[str, ...]
    auto_class: str
    table: str
    data: str
    labels: bool = False
    """Rows of its head mean labels."""
    of_images: bool = False
    """It is given images, and not texts."""
    of_words: bool = False
    """It labels each word, and not the whole."""
    unlabelled: bool = False
    """What it is to say is in the text itself: its data needs no labels, and it is scored by perplexity."""
    writes: bool = False
    """It answers with texts of its own, which have no probability and no mean."""
    decodes: bool = False
    """An encoder reads what it is given, and a decoder writes what the data has as its label."""

    @property
    def continues(self) -> bool:
        """What it writes goes on with the text that it is given."""
        return self.writes and not self.decodes


TASKS = {
    task.name: task
    for task in (
        Task(
            TEXTS,
            ("ForSequenceClassification",),
            "AutoModelForSequenceClassification",
            "SEQUENCE_CLASSIFICATION",
            "texts or pairs of texts",
            labels=True,
        ),
        Task(
            WORDS,
            ("ForTokenClassification",),
            "AutoModelForTokenClassification",
            "TOKEN_CLASSIFICATION",
            "lists of words",
            labels=True,
            of_words=True,
        ),
        Task(
            QUESTIONS,
            ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
            "AutoModelForQuestionAnswering",
            "QUESTION_ANSWERING",
            "pairs of a question and a text",
        ),
        Task(MASKED, ("ForMaskedLM",), "AutoModelForMaskedLM", "MASKED_LM", "texts", unlabelled=True),
        Task(CAUSAL, ("ForCausalLM",), "AutoModelForCausalLM", "CAUSAL_LM", "texts", unlabelled=True, writes=True),
        Task(SEQ2SEQ, (), "AutoModelForSeq2SeqLM", "SEQ_TO_SEQ_CAUSAL_LM", "texts", writes=True, decodes=True),
        Task(
            IMAGES,
            ("ForImageClassification", "ForImageClassificationWithTeacher"),
            "AutoModelForImageClassification",
            "IMAGE_CLASSIFICATION",
            "images",
            labels=True,
            of_images=True,
        ),
    )
}
# Speech and images go into a ForConditionalGeneration too, so its name is not enough.
_AMBIGUOUS = "ForConditionalGeneration"
_SUPPORTED = (
    "*ForSequenceClassification, *ForTokenClassification, *ForQuestionAnswering, *ForMaskedLM, *ForCausalLM and "
)
_SUPPORTED += "*LMHeadModel, *ForConditionalGeneration of texts (T5, BART), *ForImageClassification"


def task_of(config: dict[str, Any], name: str) -> Task:
    """The task of the model called `name`, by the architecture that its config names.

    Raises `Incompatible` where the config names no architecture or one of a task that is not supported.
    """
    architecture = architecture_of(config, name)
    task = find_task(architecture, str(config.get("model_type")))
    if task is None:
        raise Incompatible(
            f"{name} is a {architecture}, which FuseHub cannot use.", f"Supported architectures: {_SUPPORTED}."
        )
    return task


def find_task(architecture: str, model_type: str) -> Task | None:
    """The task of an architecture: by its name, or else by the lists that transformers keeps. None if it has none."""
    for task in TASKS.values():
        if architecture.endswith(task.suffixes):
            return task
    # Names of language models tell little. Those that fill masks and also generate (BART) are used for the latter.
    models = [task for task in TASKS.values() if task.unlabelled or task.writes]
    for task in sorted(models, key=lambda task: not task.decodes):
        known = classes_of(f"MODEL_FOR_{task.table}_MAPPING_NAMES").get(model_type, ())
        listed = architecture in ([known] if isinstance(known, str) else known)
        if listed and (task.decodes or not architecture.endswith(_AMBIGUOUS)):
            return task
    return None


def _architecture_task(config: Mapping[str, Any]) -> Task | None:
    architectures = config.get("architectures") or []
    return find_task(architectures[0], str(config.get("model_type"))) if len(architectures) == 1 else None


def has_labels(config: Mapping[str, Any]) -> bool:
    """Whether rows of the model's head mean labels: of classifiers; a language model or a reader of spans has none."""
    task = _architecture_task(config)
    return task is None or task.labels


def architecture_of(config: dict[str, Any], name: str) -> str:
    """The transformers class that the config names. Raises `UnsafeFile` if it needs code of the repo's own, and
    `Incompatible` where it names none, or says that the weights are quantised in a way that is not read."""
    if config.get("auto_map"):
        raise UnsafeFile(
            f"{name} needs code of its own (auto_map in config.json); FuseHub never runs code of a repo.",
            "Use a model whose architecture transformers itself knows.",
        )
    float8_of(config, name)  # Raises for what is stored in bits that are not read.
    architectures = config.get("architectures") or []
    if len(architectures) != 1:
        raise Incompatible(
            f"{name}: config.json names no single architecture (it says {architectures}).",
            "Save the model once with transformers' save_pretrained, which writes it.",
        )
    return architectures[0]


def labels_of(config: Mapping[str, Any], name: str) -> list[str]:
    """Label names in the order of the head's rows; `LABEL_i` where the config has none; none without such a head.

    As transformers reads it, `num_labels` counts only where `id2label` is not there. Raises `Incompatible` where the
    config of the model called `name` does not tell for each row, counted from 0, what it means.
    """
    if not has_labels(config):
        return []
    return read_labels(config, name)


def problem_type_of(config: Mapping[str, Any], name: str) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, as transformers reads it."""
    said = config.get("problem_type")
    if said:
        return said
    return "regression" if len(labels_of(config, name)) == 1 else "single_label_classification"


def class_name_of(config: PretrainedConfig) -> str:
    """The class of transformers that a config names; `None`, which is the name of none, where it names none."""
    return config.architectures[0] if config.architectures else "None"


def load_config(ref: ModelRef) -> PretrainedConfig:
    """transformers' config object of the model."""
    ref.path("config.json")
    labels_of(ref.config, ref.name)
    try:
        return config_in_words(ref.config, None if ref.parts else _folder(ref))
    except Exception as error:  # A value of a wrong kind raises whatever the config's own code comes upon.
        said = "; ".join(line.strip() for line in str(error)[:300].splitlines() if line.strip())
        said = said or type(error).__name__
        raise Incompatible(
            f"{ref.name}: transformers cannot read its config ({said}).",
            "Is its architecture known to the installed transformers, and is every value of the kind it should be?",
        ) from error


def config_in_words(
    own: Mapping[str, Any], folder: Path | None, said: dict[str, Any] | None = None
) -> PretrainedConfig:
    """transformers' config object of a config.json that says `own`, which is in `folder` if it is in any; or of one of
    its kind that says `said`. Raises whatever wrong values lead to."""
    from transformers import AutoConfig

    if folder is None:
        config = AutoConfig.for_model(**own)
    else:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return _of_this_machine(config if said is None else type(config).from_dict(said))


def config_like(ref: ModelRef, said: dict[str, Any]) -> PretrainedConfig:
    """transformers' config object of a config.json that says `said`, of the kind that the model's own is."""
    return _of_this_machine(type(load_config(ref)).from_dict(said))


def _of_this_machine(config: PretrainedConfig) -> PretrainedConfig:
    """What computes attention and experts is this machine's affair; the config may name what its author's had. And
    weights are read as what they mean, in however few bits they are stored."""
    if hasattr(config, KEY):
        delattr(config, KEY)
    for part in [config, *(getattr(config, name, None) for name in config.sub_configs)]:
        if part is None:
            continue
        if part._attn_implementation not in (None, "eager", "sdpa"):
            part._attn_implementation = None
        if part._experts_implementation not in (None, "eager"):
            part._experts_implementation = None
    return config


def _folder(ref: ModelRef) -> Path:
    return ref.folder if ref.folder is not None else ref.path("config.json").parent
