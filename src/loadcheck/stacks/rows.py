"""Rows as the model gets them: the template honoured, the assistant's tokens alone as labels, and what is wrong with a row by its line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from loadcheck.data import Row
from loadcheck.data.faults import Faults

IGNORED = -100
"""A label that the loss leaves out (torch.nn.CrossEntropyLoss: ignore_index)."""
Span = tuple[int, int]
Learned = Literal["assistant", "text", "all"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row as token ids.

    Attributes:
        labels: IGNORED where nothing is learned.
        ends: whether the last label is a token that ends an answer.
        cut: how many tokens were cut off.
    """

    line: int
    input_ids: list[int]
    labels: list[int]
    ends: bool
    cut: int = 0

    @property
    def num_labels(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class Tokenized:
    """Rows, made with one tokenizer of transformers.

    Attributes:
        learned: which tokens are labels: the assistant's; of plain texts all ("text"), and "all" where a template does not let them be told.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], limit_tokens: int, truncate: bool) -> None:
        self._tokenizer, self._end_ids = tokenizer, end_ids
        self._limit_tokens, self._truncate = limit_tokens, truncate
        self._special = [token for token in tokenizer.all_special_tokens if len(token) > 1]
        self.learned: Learned = "assistant"

    def rows(self, rows: Sequence[Row], faults: Faults) -> list[Tokens]:
        """Every row that is right; what is wrong with the others is among the faults."""
        found = [tokens for row in rows if (tokens := self._row(row, faults)) is not None]
        whole = [each for each in found if not each.cut]
        if whole and not faults and not any(each.ends for each in whole):
            what = (
                "the template ends no answer with a token that ends a generation, so the model would not learn to stop"
            )
            faults.add(None, what, "mend the tokenizer's chat_template or its eos_token")
        return found

    def prompts(self, rows: Sequence[Row], faults: Faults) -> list[Tokens]:
        """The prompts of GRPO, with the answer's beginning."""
        found = []
        for row in rows:
            if self._holds_special(row, faults) or self._refuses(row, faults):
                continue
            ids = self._ids(self._rendered(row.chat, begins_answer=True))
            if len(ids) > self._limit_tokens and not self._truncate:
                self._too_long(row.line, len(ids), "--max-prompt-length", faults)
                continue
            found.append(Tokens(row.line, ids[-self._limit_tokens :], [], False, max(0, len(ids) - self._limit_tokens)))
        return found

    def _row(self, row: Row, faults: Faults) -> Tokens | None:
        if self._holds_special(row, faults) or self._refuses(row, faults):
            return None
        ids, labels = self._text(row) if row.text is not None else self._chat(row)
        if len(ids) > 1 and ids[0] == ids[1] == self._tokenizer.bos_token_id:
            faults.add(row.line, "begins with two BOS tokens", "remove the one that the row or its template adds")
            return None
        return self._cut(row.line, ids, labels, faults)

    def _cut(self, line: int, ids: list[int], labels: list[int], faults: Faults) -> Tokens | None:
        limit = self._limit_tokens
        if len(ids) > limit and not self._truncate:
            self._too_long(line, len(ids), "--max-seq-length", faults)
            return None
        tokens = Tokens(line, ids[:limit], labels[:limit], self._ends(labels[:limit]), max(0, len(ids) - limit))
        if not tokens.num_labels:
            cut = f" in its first {limit} tokens" if tokens.cut else ""
            faults.add(
                line, f"has nothing to learn{cut}: every label is masked", "shorten the question, or remove the row"
            )
            return None
        return tokens

    def _ends(self, labels: list[int]) -> bool:
        last = next((label for label in reversed(labels) if label != IGNORED), IGNORED)
        return last in self._end_ids

    def _too_long(self, line: int, num_tokens: int, flag: str, faults: Faults) -> None:
        what = f"has {num_tokens} tokens, above the limit of {self._limit_tokens}"
        faults.add(line, what, f"raise {flag}, shorten the row, or have it cut with --truncate")

    def _holds_special(self, row: Row, faults: Faults) -> bool:
        """Whether a text holds a token of the template itself, which would end or begin a turn where nobody meant it to."""
        texts = [each.content for each in row.messages]
        found = next((token for token in self._special for text in texts if token in text), None)
        if found is not None:
            faults.add(
                row.line, f"holds the tokenizer's own {found}", "remove it: the template writes it where it belongs"
            )
        return found is not None

    def _refuses(self, row: Row, faults: Faults) -> bool:
        """Whether the template takes no such chat, or there is none: a system's turn in gemma's, any chat with a base model."""
        if row.text is not None:
            return False
        try:
            self._rendered(row.chat)
        except Exception as error:  # jinja2's own, and ValueError where there is no template
            said = str(error).partition("\n")[0]
            remedy = "shape the chat as the template takes it, or train an instruct model"
            faults.add(row.line, f"the tokenizer's chat template does not take it ({said:.120})", remedy)
            return True
        return False

    # ------------------------------------------------------------------------------------------------------- text and chat

    def _text(self, row: Row) -> tuple[list[int], list[int]]:
        """A plain text, which ends with the tokenizer's EOS; everything in it is learned."""
        self.learned = "text"
        ids = list(self._tokenizer(row.text)["input_ids"])
        if ids[-1] not in self._end_ids and self._tokenizer.eos_token_id is not None:
            ids.append(self._tokenizer.eos_token_id)
        return ids, list(ids)

    def _chat(self, row: Row) -> tuple[list[int], list[int]]:
        chat = row.chat
        text = self._rendered(chat)
        spans = self._answers(chat, text)
        if spans is None:
            self.learned = "all"
            ids = self._ids(text)
            return ids, list(ids)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        return ids, _labels(ids, encoded["offset_mapping"], spans, text, self._end_ids)

    def _answers(self, chat: list[dict[str, str]], text: str) -> list[Span] | None:
        """Where the assistant's turns stand in the text, in characters; None where the template or the tokenizer does not let it be told."""
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        spans = []
        for number, turn in enumerate(chat):
            if turn["role"] == "assistant":
                before, after = self._rendered(chat[:number], begins_answer=True), self._rendered(chat[: number + 1])
                if not (text.startswith(after) and after.startswith(before)):
                    return None
                spans.append((len(before), len(after)))
        return spans

    def _rendered(self, chat: list[dict[str, str]], begins_answer: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=begins_answer)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _labels(
    ids: list[int], offsets: Sequence[Span], spans: Sequence[Span], text: str, end_ids: frozenset[int]
) -> list[int]:
    """The ids of the tokens that lie within a span, IGNORED for the others, and for the blanks after a span's end of turn."""
    labels = [IGNORED] * len(ids)
    for begin, end in spans:
        inside = [at for at, (first, last) in enumerate(offsets) if begin <= first and last <= end]
        ending = next((at for at in reversed(inside) if ids[at] in end_ids), None)
        for at in inside:
            if ending is None or at <= ending or text[offsets[at][0] : end].strip():
                labels[at] = ids[at]
    return labels


def refuse_unknown(rows: Sequence[Tokens], vocab_size: int, faults: Faults) -> None:
    """A fault for each row with a token that the model has no embedding for: its tokenizer was grown, and the model was not."""
    for row in rows:
        highest = max(row.input_ids, default=0)
        if highest >= vocab_size:
            what = f"has token {highest}, and the model's embeddings end at {vocab_size - 1}: the tokenizer was grown"
            faults.add(row.line, what, "train with the model's own tokenizer")


def end_ids(tokenizer: Any, directory: Path) -> frozenset[int]:
    """The tokens that end a generation: the tokenizer's, and those of generation_config.json."""
    found = {tokenizer.eos_token_id}
    try:
        named = json.loads((directory / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        named = None
    found |= set(named) if isinstance(named, list) else {named}
    return frozenset(each for each in found if isinstance(each, int))


def summary(rows: Sequence[Tokens], learned: Learned) -> dict[str, Any]:
    """What a run says of its rows: counts, and a hash of all ids and labels, by which two tokenizers are seen to agree."""
    lengths = [len(row.input_ids) for row in rows]
    return {
        "num_rows": len(rows),
        "num_tokens": sum(lengths),
        "num_label_tokens": sum(row.num_labels for row in rows),
        "num_shortest_tokens": min(lengths, default=0),
        "num_longest_tokens": max(lengths, default=0),
        "num_cut_rows": sum(row.cut > 0 for row in rows),
        "num_ended_rows": sum(row.ends for row in rows),
        "labels": learned,
        "tokens_sha256": sha256("".join(_written(rows)).encode("ascii")).hexdigest(),
    }


def _written(rows: Sequence[Tokens]) -> Iterator[str]:
    for row in rows:
        yield f"{row.input_ids}{row.labels}\n"
