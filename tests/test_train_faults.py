"""Silent faults: each is injected, and refused on one line before a training's first step."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli.app import run as loadcheck
from loadcheck.data import Row
from loadcheck.data.faults import Faults
from loadcheck.errors import BadInput
from loadcheck.runs.folder import RunFolder
from loadcheck.stacks.preflight import check_adapters, check_base, check_tokens
from loadcheck.stacks.rows import RowTokenizer, check_vocabulary, summary
from tests.conftest import ROOT
from tests.test_train_rows import BOS, EOS, Tokenizer, _chat

LIMIT = 60


class LargerTokenizer(Tokenizer):
    """Has one token more than the model has embeddings."""

    def __call__(self, text: str, *words: Any, **named: Any) -> dict[str, Any]:
        found = super().__call__(text, *words, **named)
        found["input_ids"][1] = 400
        return found


class NoTemplate(Tokenizer):
    """Has no chat template, like a base model's."""

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise ValueError("Cannot use chat template functions because tokenizer.chat_template is not set\nand more")


class NoEnd(Tokenizer):
    """Has no EOS."""

    eos_token_id = None


DATA_FAULTS = {
    "no template": (NoTemplate(), _chat("a", "b"), "chat template rejects it (Cannot use"),
    "no EOS in the template": (Tokenizer("{role}:{content}\n"), _chat("a", "b"), "the template ends no answer"),
    "no EOS in the tokenizer": (NoEnd(), Row(1, text="all of it"), "the template ends no answer"),
    "all labels masked": (Tokenizer(), _chat("q" * LIMIT, "b"), "every label is masked"),
    "duplicated BOS": (Tokenizer(start=BOS + BOS), _chat("a", "b"), "begins with two BOS tokens"),
    "cut by length": (Tokenizer(), _chat("a", "b" * LIMIT), "above the limit of 60"),
    "tokenizer grown": (LargerTokenizer(), _chat("a", "b"), "the tokenizer was extended"),
    "a token of the template": (Tokenizer(), _chat("a" + EOS, "b"), "contains the tokenizer's own"),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_fault_of_data_and_tokenizer_is_one_line(fault: str):
    """A fault names its line of the file, or the file."""
    tokenizer, row, words = DATA_FAULTS[fault]
    faults = Faults("data.jsonl")
    made = RowTokenizer(tokenizer, frozenset({2}), LIMIT, truncate=fault == "all labels masked")
    check_vocabulary(made.rows([row], faults), 300, faults)
    (problem,) = faults.problems()
    assert words in str(problem) and str(problem).startswith("data.jsonl")


def test_prompts_that_the_template_rejects_are_faults():
    """GRPO prompts that the template rejects are faults."""
    faults = Faults("data.jsonl")
    assert RowTokenizer(NoTemplate(), frozenset({2}), LIMIT, truncate=False).prompts([_chat("a")], faults) == []
    assert len(faults) == 1


def test_another_template_in_the_trainer_is_refused(tmp_path: Path):
    """A trainer with another template would train on other tokens than were counted; without counts nothing is compared."""
    tokens = [
        RowTokenizer(Tokenizer(template), frozenset({2}), LIMIT, truncate=False).rows([_chat("a", "b")], Faults("x"))
        for template in ("{role}:{content}" + EOS, "{role}={content}" + EOS)
    ]
    folder = RunFolder(tmp_path)
    counted, others = (summary(each, "assistant") for each in tokens)
    check_tokens(folder, others["tokens_sha256"])
    folder.rows_path.write_text(json.dumps(counted))
    check_tokens(folder, counted["tokens_sha256"])
    with pytest.raises(BadInput, match="chat_template: the trainer's tokenizer"):
        check_tokens(folder, others["tokens_sha256"])


@dataclass
class Weight:
    """A parameter."""

    requires_grad: bool = True
    dtype: str = "torch.float32"
    finite: bool = True

    def detach(self) -> "Weight":
        return self

    def cpu(self) -> "Weight":
        return self

    def isfinite(self) -> "Weight":
        return self

    def all(self) -> bool:
        return self.finite


class Model:
    """Named parameters."""

    def __init__(self, **weights: Weight) -> None:
        self.weights = weights

    def named_parameters(self) -> Any:
        return [(name.replace("__", "."), weight) for name, weight in self.weights.items()]


A, BASE = "q__lora_A__weight", "q__base_layer__weight"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(**{A: Weight(requires_grad=False)}), "requires_grad: none of them is trainable"),
        (Model(**{A: Weight(), BASE: Weight()}), "requires_grad: 1 weights of the base would be trained, q.base_layer.weight"),
        (Model(**{A: Weight(dtype="torch.float16")}), "dtype: are in torch.float16"),
        (Model(**{A: Weight(finite=False)}), "weights: contain values that are not finite"),
    ],
)  # fmt: skip
def test_adapters_that_could_not_be_trained_are_refused(model: Model, words: str):
    """Adapters attached for inference, an unfrozen base, float16 and values that are not finite are refused."""
    with pytest.raises(BadInput) as caught:
        check_adapters(model)
    (problem,) = caught.value.problems
    assert words in str(problem)


def test_correct_adapters_are_accepted():
    """Adapters in float32 or bfloat16 over a frozen base are accepted."""
    check_adapters(
        Model(**{A: Weight(), "q__lora_B__weight": Weight(dtype="torch.bfloat16"), BASE: Weight(False, "x")})
    )


def test_a_checkpoint_on_another_base_is_refused(tmp_path: Path):
    """A checkpoint is refused if the loaded weights have another hash; an older checkpoint has none, and is accepted."""
    check_base(None, "aa")
    check_base(tmp_path, "aa")
    (tmp_path / "base.json").write_text('{"sha256": "aa"}')
    check_base(tmp_path, "aa")
    with pytest.raises(BadInput, match="--resume: has adapters of another base"):
        check_base(tmp_path, "bb")


def test_a_rank_that_no_server_supports_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A rank that no server supports exits 2, before anything is made."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    data = str(ROOT / "examples" / "glossary.jsonl")
    assert loadcheck(["train", "smollm2-135m-cpu", "--data", data, "--lora-r", "257", "--max-lora-rank", "512"]) == 2
    assert "--lora-r: rank 257 is above 256" in capsys.readouterr().err
