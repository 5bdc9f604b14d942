"""Packed rows: all full, every token and label in place, and cut or dropped tokens counted."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadcheck.data import read_data
from loadcheck.data.faults import Faults
from loadcheck.runs.folder import RunFolder
from loadcheck.specs.files import validate
from loadcheck.specs.training import TrainJob
from loadcheck.stacks.packing import PackedRows, TokenRows, check_enough_rows, pack
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.rows import IGNORED, TokenRow
from loadcheck.stacks.train_session import TrainSession
from tests.test_train_rows import Tokenizer

EOS = 2


def _row(line: int, prompt: int, answer: int, ends: bool = True) -> TokenRow:
    """An example whose tokens encode its line and position; its answer is learned, and its end if it has one."""
    ids = [1000 * line + at for at in range(prompt + answer)]
    return TokenRow(line, ids, [*[IGNORED] * prompt, *ids[prompt:]], ends)


def _stream(packed: PackedRows) -> list[int]:
    return list(chain.from_iterable(row.input_ids for row in packed.rows))


def test_rows_are_full_and_examples_continue_in_the_next():
    """Three examples of 6 give four rows of 4 and a remainder that fills none; each label stays with its token."""
    packed = pack([_row(line, 2, 4) for line in (1, 2, 3)], 4, EOS, seed=3407)
    assert [len(row.input_ids) for row in packed.rows] == [4, 4, 4, 4]
    order = dict.fromkeys(each // 1000 for each in _stream(packed))
    assert _stream(packed) == [each for line in order for each in _row(line, 2, 4).input_ids][:16]
    for row in packed.rows:
        assert all(label in (IGNORED, each) for each, label in zip(row.input_ids, row.labels, strict=True))


def test_the_first_token_of_a_row_is_no_label():
    """A row's first token has nothing to be predicted from, so it is no label; the loss is averaged over the labels."""
    packed = pack([_row(1, 0, 8)], 4, EOS, seed=1)
    assert [row.labels for row in packed.rows] == [[IGNORED, 1001, 1002, 1003], [IGNORED, 1005, 1006, 1007]]


def test_an_example_without_an_end_gets_an_eos():
    """As in trl, each example gets an EOS; one that has an end gets no second."""
    (open_ended,) = pack([_row(1, 1, 3, ends=False)], 5, EOS, seed=1).rows
    assert (open_ended.input_ids[-1], open_ended.labels[-1], open_ended.ends_answer) == (EOS, EOS, True)
    assert pack([_row(1, 1, 4)], 5, EOS, seed=1).rows[0].input_ids == _row(1, 1, 4).input_ids
    assert pack([_row(1, 1, 3, ends=False)], 4, None, seed=1).rows[0].ends_answer is False


def test_split_and_dropped_tokens_are_counted():
    """With examples of 6 in rows of 8, the second is split, and 2 tokens of the third are dropped, its end among them."""
    packed = pack([_row(line, 2, 4) for line in (1, 2, 3)], 8, EOS, seed=1)
    assert packed.counts() == {
        "num_packed_rows": 2, "num_rows": 3, "num_split_rows": 2, "num_left_out_tokens": 2, "num_ended_rows": 2, "num_unended_rows": 1,
    }  # fmt: skip


def test_an_example_that_fills_its_row_is_not_split():
    """An example that ends with its row is not counted as split."""
    packed = pack([_row(1, 1, 3), _row(2, 1, 3)], 4, EOS, seed=1)
    assert (packed.num_split_rows, packed.num_left_out_tokens, packed.num_ended_rows) == (0, 0, 2)
    assert all(row.ends_answer for row in packed.rows)


def test_an_end_at_the_start_of_a_row_is_not_learned():
    """With 5 tokens in rows of 4, the end begins the second row, where it is not learned."""
    packed = pack([_row(1, 1, 4), _row(1, 1, 4)], 4, EOS, seed=1)
    assert (packed.num_ended_rows, packed.num_unended_rows) == (0, 2)


def test_a_row_without_labels_is_dropped():
    """A row without labels is dropped, as its loss would be 0/0, and its tokens are counted."""
    packed = pack([_row(1, 9, 3)], 4, EOS, seed=1)
    assert ([row.input_ids[0] for row in packed.rows], packed.num_left_out_tokens) == ([1008], 8)


def test_the_seed_decides_the_order():
    """The seed decides the order, which --resume and the trainer's tokenizer reproduce; it is not the file's order."""
    rows = [_row(line, 1, 3) for line in range(1, 30)]
    assert pack(rows, 4, EOS, seed=7) == pack(rows, 4, EOS, seed=7)
    assert len({tuple(_stream(pack(rows, 4, EOS, seed=seed))) for seed in (7, 8)}) == 2
    assert _stream(pack(rows, 4, EOS, seed=7)) != list(chain.from_iterable(row.input_ids for row in rows))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(2, 12),
    st.integers(0, 99),
)
def test_no_token_is_lost_or_duplicated(shapes: list[tuple[int, int, bool]], length: int, seed: int):
    """For any lengths, the rows and the dropped tokens are all tokens and the added EOS."""
    rows = [_row(line, *shape) for line, shape in enumerate(shapes, 1)]
    packed = pack(rows, length, EOS, seed)
    num_tokens = sum(len(row.input_ids) + (not row.ends_answer) for row in rows)
    own = [each for each in _stream(packed) if each != EOS]
    assert len(_stream(packed)) + packed.num_left_out_tokens == num_tokens
    assert len(set(own)) == len(own) and set(own) <= {each for row in rows for each in row.input_ids}
    assert packed.num_ended_rows == sum(
        label != IGNORED and (label == EOS or label in {row.input_ids[-1] for row in rows if row.ends_answer})
        for row in packed.rows
        for label in row.labels
    )
    assert packed.num_ended_rows + packed.num_unended_rows == len(rows)
    assert all(row.num_labels and row.labels[0] == IGNORED for row in packed.rows)


def test_a_packed_row_has_the_line_of_its_first_token():
    """A packed row has the line of its first token, so that it can be found in the file."""
    assert [row.line for row in pack([_row(7, 1, 5), _row(7, 1, 5)], 4, EOS, seed=1).rows] == [7, 7, 7]


@pytest.mark.parametrize(("num_step_rows", "faulty"), [(2, False), (3, True)])
def test_fewer_rows_than_a_step_are_refused(num_step_rows: int, faulty: bool):
    """Fewer rows than one step needs are refused, as training would hold less than predicted; with no row at all trl fails by itself."""
    faults = Faults("data.jsonl")
    check_enough_rows(pack([_row(1, 1, 7)], 4, EOS, seed=1), 4, num_step_rows, faults)
    messages = [str(each) for each in faults.problems()]
    assert bool(messages) == faulty
    assert not faulty or messages[0].startswith(
        "data.jsonl: fills 2 rows of 4 tokens, fewer than the 3 of one step; lower"
    )


@pytest.mark.parametrize(
    ("packing", "batch", "message"),
    [(True, 2, None), (True, 3, "fewer than the 6 of one step"), (False, 2, "has 31 tokens, above the limit of 12")],
)
def test_a_long_example_can_be_packed(packing: bool, batch: int, message: str | None, tmp_path: Path):
    """A long example continues in the next row, if there are enough rows for one step of all batches."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "What does not fit in one row."}\n' * 2)
    settings = {
        "method": "sft",
        "packing": packing,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 2,
    }
    job = {
        "settings": settings,
        "schedule": {},
        "data": str(data),
        "data_sha256": read_data(data, "sft").sha256,
        "limit_tokens": 12,
    }
    plan: Any = SimpleNamespace(config=SimpleNamespace(vocab_size=300))
    session = TrainSession(plan, validate(TrainJob, job, "x"), tmp_path, RunFolder(tmp_path), Recorder())
    faults = Faults("data.jsonl")
    found = session.tokens(Tokenizer(), faults)
    assert [message in str(each) for each in faults.problems() if message][:1] == ([True] if message else [])
    assert message or ([len(row.input_ids) for row in found.trained], faults.problems()) == ([12] * 5, [])


def test_the_summary_counts_examples_and_packed_rows():
    """Tokens and hash are of the rows that the trainer gets; the number of rows is the data's."""
    examples = [_row(line, 2, 4) for line in (1, 2, 3)]
    plain = TokenRows(examples, "assistant")
    packed = TokenRows(examples, "assistant", pack(examples, 8, EOS, seed=1))
    assert plain.trained == examples and "num_packed_rows" not in plain.summary()
    found = packed.summary()
    assert (
        found["num_rows"],
        found["num_packed_rows"],
        found["num_tokens"],
        found["num_shortest_tokens"],
    ) == (3, 2, 16, 8)
    assert found["tokens_sha256"] != plain.summary()["tokens_sha256"]
