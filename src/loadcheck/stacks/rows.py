"""Rows as the model receives them: rendered by the chat template, only the assistant's tokens as labels, faults reported by line."""

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
"""A label that the loss ignores (torch.nn.CrossEntropyLoss: ignore_index)."""
Span = tuple[int, int]
Learned = Literal["assistant", "text", "all"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as token ids.

    Attributes:
        labels: IGNORED for tokens that are not learned.
        ends_answer: whether the last label is a token that ends an answer.
        num_cut: how many tokens were cut off.
    """

    line: int
    input_ids: list[int]
    labels: list[int]
    ends_answer: bool
    num_cut: int = 0

    @property
    def num_labels(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class RowTokenizer:
    """Tokenizes rows with a tokenizer of transformers.

    Attributes:
        learned: which tokens are labels: the assistant's; of plain texts all ("text"); "all" where the template does not show the turns.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], limit_tokens: int, truncate: bool) -> None:
        self._tokenizer, self._end_ids = tokenizer, end_ids
        self._limit_tokens, self._truncate = limit_tokens, truncate
        self._special = [token for token in tokenizer.all_special_tokens if len(token) > 1]
        self.learned: Learned = "assistant"

    def rows(self, rows: Sequence[Row], faults: Faults) -> list[TokenRow]:
        """Every valid row; the problems of the others are added to the faults."""
        found = [tokens for row in rows if (tokens := self._row(row, faults)) is not None]
        whole = [row for row in found if not row.num_cut]
        if whole and not faults and not any(row.ends_answer for row in whole):
            what = "the template ends no answer with a token that ends generation, so the model would not learn to stop"
            faults.add(None, what, "fix the tokenizer's chat_template or its eos_token")
        return found

    def prompts(self, rows: Sequence[Row], faults: Faults) -> list[TokenRow]:
        """The prompts of GRPO, with the generation prompt."""
        found = []
        for row in rows:
            if self._holds_special(row, faults) or self._refuses(row, faults):
                continue
            ids = self._ids(self._rendered(row.chat, generation_prompt=True))
            if len(ids) > self._limit_tokens and not self._truncate:
                self._too_long(row.line, len(ids), "--max-prompt-length", faults)
                continue
            num_cut = max(0, len(ids) - self._limit_tokens)
            found.append(TokenRow(row.line, ids[-self._limit_tokens :], [], ends_answer=False, num_cut=num_cut))
        return found

    def _row(self, row: Row, faults: Faults) -> TokenRow | None:
        if self._holds_special(row, faults) or self._refuses(row, faults):
            return None
        ids, labels = self._text(row) if row.text is not None else self._chat(row)
        if len(ids) > 1 and ids[0] == ids[1] == self._tokenizer.bos_token_id:
            faults.add(row.line, "begins with two BOS tokens", "remove the one that the row or its template adds")
            return None
        return self._cut(row.line, ids, labels, faults)

    def _cut(self, line: int, ids: list[int], labels: list[int], faults: Faults) -> TokenRow | None:
        limit = self._limit_tokens
        if len(ids) > limit and not self._truncate:
            self._too_long(line, len(ids), "--max-seq-length", faults)
            return None
        ends_answer = self._ends_answer(labels[:limit])
        tokens = TokenRow(line, ids[:limit], labels[:limit], ends_answer, max(0, len(ids) - limit))
        if not tokens.num_labels:
            cut = f" in its first {limit} tokens" if tokens.num_cut else ""
            faults.add(
                line, f"has nothing to learn{cut}: every label is masked", "shorten the question, or remove the row"
            )
            return None
        return tokens

    def _ends_answer(self, labels: list[int]) -> bool:
        last = next((label for label in reversed(labels) if label != IGNORED), IGNORED)
        return last in self._end_ids

    def _too_long(self, line: int, num_tokens: int, flag: str, faults: Faults) -> None:
        what = f"has {num_tokens} tokens, above the limit of {self._limit_tokens}"
        faults.add(line, what, f"raise {flag}, shorten the row, or have it cut with --truncate")

    def _holds_special(self, row: Row, faults: Faults) -> bool:
        """Whether a text contains one of the template's special tokens, which would begin or end a turn unintentionally."""
        texts = [message.content for message in row.messages]
        found = next((token for token in self._special for text in texts if token in text), None)
        if found is not None:
            faults.add(
                row.line, f"contains the tokenizer's own {found}", "remove it: the template writes it where it belongs"
            )
        return found is not None

    def _refuses(self, row: Row, faults: Faults) -> bool:
        """Whether the template rejects the chat, or there is none: for example a system turn with gemma, or any chat with a base model."""
        if row.text is not None:
            return False
        try:
            self._rendered(row.chat)
        except Exception as error:  # jinja2's own, or ValueError where there is no template
            message = str(error).partition("\n")[0]
            remedy = "change the chat to what the template accepts, or train an instruct model"
            faults.add(row.line, f"the tokenizer's chat template rejects it ({message:.120})", remedy)
            return True
        return False

    # ------------------------------------------------------------------------------------------------------- text and chat

    def _text(self, row: Row) -> tuple[list[int], list[int]]:
        """A plain text, ended by the tokenizer's EOS; all of it is learned."""
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
        """The assistant's turns as spans of characters in the text; None where the template or the tokenizer does not show them."""
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        spans = []
        for number, turn in enumerate(chat):
            if turn["role"] == "assistant":
                before, after = (
                    self._rendered(chat[:number], generation_prompt=True),
                    self._rendered(chat[: number + 1]),
                )
                if not (text.startswith(after) and after.startswith(before)):
                    return None
                spans.append((len(before), len(after)))
        return spans

    def _rendered(self, chat: list[dict[str, str]], generation_prompt: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _labels(
    ids: list[int], offsets: Sequence[Span], spans: Sequence[Span], text: str, end_ids: frozenset[int]
) -> list[int]:
    """The ids of tokens within a span; IGNORED for all others, and for whitespace after a span's end-of-turn token."""
    labels = [IGNORED] * len(ids)
    for begin, end in spans:
        inside = [at for at, (first, last) in enumerate(offsets) if begin <= first and last <= end]
        ending = next((at for at in reversed(inside) if ids[at] in end_ids), None)
        for at in inside:
            if ending is None or at <= ending or text[offsets[at][0] : end].strip():
                labels[at] = ids[at]
    return labels


def check_vocabulary(rows: Sequence[TokenRow], vocab_size: int, faults: Faults) -> None:
    """A fault for each row with a token beyond the model's embeddings: the tokenizer was extended without the model."""
    for row in rows:
        highest = max(row.input_ids, default=0)
        if highest >= vocab_size:
            what = (
                f"has token {highest}, but the model's embeddings end at {vocab_size - 1}: the tokenizer was extended"
            )
            faults.add(row.line, what, "train with the model's own tokenizer")


def end_ids(tokenizer: Any, directory: Path) -> frozenset[int]:
    """The tokens that end generation: the tokenizer's own, and those in generation_config.json."""
    found = {tokenizer.eos_token_id}
    try:
        named = json.loads((directory / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        named = None
    found |= set(named) if isinstance(named, list) else {named}
    return frozenset(token_id for token_id in found if isinstance(token_id, int))


def summary(rows: Sequence[TokenRow], learned: Learned) -> dict[str, Any]:
    """What a run records of its rows: counts, and a hash of all ids and labels, to compare two tokenizers."""
    lengths = [len(row.input_ids) for row in rows]
    return {
        "num_rows": len(rows),
        "num_tokens": sum(lengths),
        "num_label_tokens": sum(row.num_labels for row in rows),
        "num_shortest_tokens": min(lengths, default=0),
        "num_longest_tokens": max(lengths, default=0),
        "num_cut_rows": sum(row.num_cut > 0 for row in rows),
        "num_ended_rows": sum(row.ends_answer for row in rows),
        "labels": learned,
        "tokens_sha256": sha256("".join(_written(rows)).encode("ascii")).hexdigest(),
    }


def _written(rows: Sequence[TokenRow]) -> Iterator[str]:
    for row in rows:
        yield f"{row.input_ids}{row.labels}\n"
