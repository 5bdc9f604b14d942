"""Rows as tokens: what is learned, what is cut, and faults that only a tokenizer shows."""

import re
from typing import Any

import pytest

from loadcheck.data import Message, Row
from loadcheck.data.faults import Faults
from loadcheck.stacks.rows import IGNORED, RowTokenizer, TokenRow, end_ids, summary

BOS, EOS = "<s>", "<end>"


class Tokenizer:
    """One token per character and per special token; its template writes `role:content<end>` and a line break."""

    is_fast = True
    all_special_tokens = (BOS, EOS)
    bos_token_id, eos_token_id = 1, 2

    def __init__(self, template: str = "{role}:{content}" + EOS + "\n", start: str = BOS) -> None:
        self.template, self.start = template, start

    def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return (
            self.start + "".join(self.template.format(**turn) for turn in chat) + "assistant:" * add_generation_prompt
        )

    def __call__(
        self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict[str, Any]:
        text = BOS * add_special_tokens + text
        found = list(re.finditer(f"{BOS}|{EOS}|.", text, re.DOTALL))
        ids = {BOS: 1, EOS: 2}
        return {
            "input_ids": [ids[match[0]] if match[0] in ids else 100 + ord(match[0]) for match in found],
            "offset_mapping": [match.span() for match in found],
        }

    def text(self, ids: list[int]) -> str:
        return "".join({1: BOS, 2: EOS}.get(each) or chr(each - 100) for each in ids)


def _chat(*turns: str, line: int = 1) -> Row:
    roles = ("user", "assistant")
    return Row(line, tuple(Message(roles[at % 2], turn) for at, turn in enumerate(turns)))  # type: ignore[arg-type]


def _rows(
    row: Row, tokenizer: Any = None, limit: int = 100, truncate: bool = False
) -> tuple[list[TokenRow], list[str]]:
    tokenizer = tokenizer or Tokenizer()
    faults = Faults("data.jsonl")
    found = RowTokenizer(tokenizer, frozenset({2}), limit, truncate).rows([row], faults)
    return found, [str(problem) for problem in faults.problems()]


def _learned(tokens: TokenRow) -> str:
    return Tokenizer().text([label for label in tokens.labels if label != IGNORED])


def test_only_answers_are_learned_with_their_ends():
    """Only the answers are learned, each with its end: no questions, no template text, no line break after a turn."""
    (tokens,), faults = _rows(_chat("hi", "yes", "why", "so"))
    assert (_learned(tokens), tokens.ends_answer, faults) == ("yes<end>so<end>", True, [])
    assert (
        Tokenizer().text(tokens.input_ids) == "<s>user:hi<end>\nassistant:yes<end>\nuser:why<end>\nassistant:so<end>\n"
    )


def test_a_text_is_learned_as_a_whole():
    """A text is learned as a whole, with the tokenizer's BOS and an EOS."""
    made = RowTokenizer(Tokenizer(), frozenset({2}), 100, False)
    (tokens,) = made.rows([Row(1, text="once")], Faults("x"))
    assert (_learned(tokens), made.learned) == ("<s>once<end>", "text")


def test_a_template_that_rewrites_earlier_turns_has_everything_learned():
    """If the template rewrites earlier turns, the answers cannot be located, so everything is learned, and the count says so."""

    class Rewriting(Tokenizer):
        def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
            return f"{len(chat)}" + super().apply_chat_template(chat, tokenize, add_generation_prompt)

    made = RowTokenizer(Rewriting(), frozenset({2}), 100, False)
    (tokens,) = made.rows([_chat("hi", "yes")], Faults("x"))
    assert (made.learned, tokens.num_labels) == ("all", len(tokens.input_ids))


def test_a_row_that_is_too_long_is_refused_with_its_line():
    """A row that is too long is refused with its line, not cut silently."""
    found, (fault,) = _rows(_chat("hi", "yes", line=7), limit=10)
    assert (found, fault.startswith("data.jsonl:7: has 25 tokens, above the limit of 10; raise --max-seq-length")) == (
        [],
        True,
    )


def test_a_row_is_cut_on_request():
    """With truncation a long row is cut to the limit and counted; its missing end is no fault of the template."""
    found, faults = _rows(_chat("hi", "yes"), limit=24, truncate=True)
    assert (len(found[0].input_ids), found[0].num_cut, found[0].ends_answer, faults) == (24, 1, True, [])
    found, faults = _rows(_chat("hi", "yes"), limit=22, truncate=True)
    assert (_learned(found[0]), found[0].ends_answer, faults) == ("ye", False, [])


def test_a_row_whose_answer_is_cut_off_is_refused():
    """A row with all labels masked is refused: it teaches nothing, and its loss is not a number."""
    found, (fault,) = _rows(_chat("hi", "yes"), limit=12, truncate=True)
    assert (found, "has nothing to learn in its first 12 tokens" in fault) == ([], True)


def test_two_bos_tokens_are_refused():
    """A text with the BOS that the tokenizer adds as well is refused."""
    assert "begins with two BOS tokens" in _rows(Row(3, text=BOS + "once"))[1][0]


def test_a_template_without_an_end_of_turn_is_refused():
    """A model that never sees EOS does not learn to stop."""
    assert (
        "ends no answer with a token that ends generation"
        in _rows(_chat("hi", "yes"), Tokenizer("{role}:{content}\n"))[1][0]
    )


def test_a_turn_with_the_templates_end_token_is_refused():
    """A turn that contains the template's own end token is refused, as it would end there."""
    assert "contains the tokenizer's own <end>" in _rows(_chat("hi", f"yes{EOS}no"))[1][0]


def test_prompts_are_cut_to_their_limit_on_request():
    """GRPO's prompts are cut from the left as in trl, but only if requested."""
    row = Row(4, (Message("user", "hi"),))
    faults = Faults("x")
    (tokens,) = RowTokenizer(Tokenizer(), frozenset({2}), 100, False).prompts([row], faults)
    assert Tokenizer().text(tokens.input_ids) == "<s>user:hi<end>\nassistant:"
    assert RowTokenizer(Tokenizer(), frozenset({2}), 12, False).prompts([row], faults) == []
    assert "has 20 tokens, above the limit of 12; raise --max-prompt-length" in str(faults.problems()[0])
    (cut,) = RowTokenizer(Tokenizer(), frozenset({2}), 12, True).prompts([row], faults)
    assert (Tokenizer().text(cut.input_ids), cut.num_cut) == ("<end>\nassistant:", 8)


def test_the_summary_has_counts_and_a_hash_of_the_tokens():
    """The hash covers ids and labels."""
    rows = [TokenRow(1, [5, 6, 7], [IGNORED, 6, 7], True), TokenRow(2, [5, 6], [5, 6], False, num_cut=3)]
    found = summary(rows, learned="assistant")
    assert {key: found[key] for key in ("num_rows", "num_tokens", "num_label_tokens", "num_cut_rows", "num_ended_rows")} == {
        "num_rows": 2, "num_tokens": 5, "num_label_tokens": 4, "num_cut_rows": 1, "num_ended_rows": 1,
    }  # fmt: skip
    other = [TokenRow(1, [5, 6, 7], [5, 6, 7], True), rows[1]]
    assert summary(other, learned="assistant")["tokens_sha256"] != found["tokens_sha256"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [('{"eos_token_id": [2, 9]}', {2, 9}), ('{"eos_token_id": 9}', {2, 9}), ("{}", {2}), ("[", {2}), (None, {2})],
)
def test_end_tokens_come_from_tokenizer_and_generation_config(text: str | None, ids: set[int], tmp_path: Any):
    """The end tokens come from the tokenizer and the generation config: a chat model often has a second one, which its template writes."""
    if text is not None:
        (tmp_path / "generation_config.json").write_text(text)
    assert end_ids(Tokenizer(), tmp_path) == ids
