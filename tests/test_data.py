"""Training data files: each supported form is read, and each broken row is refused on one line that names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadcheck.data import Message, read_data
from loadcheck.data.faults import MAX_FAULTS
from loadcheck.errors import BadInput

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
TURNS = (Message("user", "Hi"), Message("assistant", "Hello"))


def _file(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def _faults(path: Path, method: str = "sft") -> list[str]:
    """The reported faults, without the file's folder."""
    with pytest.raises(BadInput) as error:
        read_data(path, method)
    return [str(problem).removeprefix(str(path.parent) + "/") for problem in error.value.problems]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        (CHAT, "messages"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "conversations"),
        (
            {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]},
            "conversations",
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, "instruction, output"),
        ({"instruction": "Hi", "output": "Hello"}, "instruction, output"),
        ({"prompt": "Hi", "completion": "Hello"}, "prompt, completion"),
        ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, "prompt, completion"),
    ],
)
def test_each_form_is_read_as_the_same_chat(row: dict[str, Any], form: str, tmp_path: Path):
    """chat, sharegpt, alpaca and prompt/completion give the same turns."""
    data = read_data(_file(tmp_path, row), "sft")
    assert (data.form, [each.messages for each in data.rows]) == (form, [TURNS])


def test_an_alpaca_row_with_an_input_asks_both(tmp_path: Path):
    """Instruction and input form one question, separated by a blank line."""
    row = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    assert read_data(_file(tmp_path, row), "sft").rows[0].messages[0].content == "Translate.\n\nHaus"


def test_a_text_is_kept_as_it_is(tmp_path: Path):
    """Plain text has no turns."""
    row = read_data(_file(tmp_path, {"text": " once \n"}), "sft").rows[0]
    assert (row.text, row.messages) == (" once \n", ())


def test_a_prompt_keeps_its_columns_for_the_reward_functions(tmp_path: Path):
    """A GRPO row has the prompt as a chat and the answer as a column."""
    row = read_data(_file(tmp_path, {"prompt": "2+2?", "answer": 4}), "grpo").rows[0]
    assert (row.messages, row.columns) == ((Message("user", "2+2?"),), {"answer": 4})


def test_an_array_is_read_with_the_line_of_each_element(tmp_path: Path):
    """A .json file holds one array; a fault names the line where its element begins."""
    path = tmp_path / "data.json"
    path.write_text("\ufeff" + json.dumps([CHAT, CHAT], indent=1), encoding="utf-8")
    lines = [row.line for row in read_data(path, "sft").rows]
    assert lines == [2, 14]


def test_a_file_from_windows_is_read(tmp_path: Path):
    """A file from Windows is read, and the line numbers are right."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CHAT).encode() + b"\r\n\r\n" + json.dumps(CHAT).encode() + b"\r\n")
    assert [row.line for row in read_data(path, "sft").rows] == [1, 3]


def _chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": [', "is not JSON"),
        ('{"text": NaN}', "NaN is not a JSON number"),
        ('["a"]', "is an array, not an object"),
        ("{}", "has no key; its keys must include those of one form: messages"),
        ({"question": "a", "response": "b"}, "has the keys question, response; its keys must include those of one form: messages"),
        ({"messages": []}, "messages: must be a list of turns, at least one"),
        ({"messages": "Hi"}, "messages: must be a list of turns"),
        ({"messages": [{"role": "user"}]}, "messages[0]: must have role and content"),
        ({"messages": [{"from": "user", "value": "Hi"}]}, "messages[0]: must have role and content"),
        (_chat(("user", "Hi"), ("robot", "Hello")), "messages[1].role: unknown role 'robot'; one of system, user"),
        (_chat(("user", "Hi"), ("assistant", "")), "messages[1].content: is empty"),
        (_chat(("user", "Hi"), ("assistant", " \n")), "messages[1].content: is empty"),
        (_chat(("user", "Hi"), ("assistant", None)), "messages[1].content: must be a string"),
        (_chat(("user", "Hi"), ("assistant", ["a"])), "messages[1].content: must be a string"),
        (_chat(("user", "Hi"), ("assistant", "\ud800")), "an unpaired surrogate"),
        (_chat(("user", "Hi")), "has no assistant turn"),
        (_chat(("user", "Hi"), ("assistant", "a"), ("user", "b")), "ends with a user turn"),
        (_chat(("user", "Hi"), ("assistant", "a"), ("assistant", "b")), "two assistant turns in a row"),
        (_chat(("user", "Hi"), ("user", "a"), ("assistant", "b")), "two user turns in a row"),
        (_chat(("assistant", "a")), "does not begin with a user turn"),
        (_chat(("user", "a"), ("system", "b"), ("assistant", "c")), "a system turn that is not the first"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "messages[0]: has tool_calls, which is not supported"),
        ({"instruction": "a", "output": "b", "input": 3}, "input: must be a string"),
        ({"instruction": "", "output": "b"}, "instruction: is empty"),
        ({"prompt": "a", "completion": 1}, "completion: must be a string"),
        ({"text": ""}, "text: is empty"),
    ],
)  # fmt: skip
def test_a_broken_row_is_refused_in_one_line_that_names_it(row: Any, message: str, tmp_path: Path):
    """A broken row is refused with file, line, key, what is wrong and the fix."""
    (fault,) = _faults(_file(tmp_path, "", row))
    assert fault.startswith("data.jsonl:2: ")
    assert message in fault
    assert "; " in fault


def test_all_faults_are_reported_in_order(tmp_path: Path):
    """A broken row does not hide the next, and a correct row between them is not reported."""
    faults = _faults(_file(tmp_path, "{", CHAT, {"text": 1}, {"messages": 1}))
    assert [fault.split(": ")[0] for fault in faults] == ["data.jsonl:1", "data.jsonl:3", "data.jsonl:4"]
    assert "has the form text, but the rows before it messages" in faults[1]


def test_many_faults_are_counted(tmp_path: Path):
    """A file that is wrong throughout gives MAX_FAULTS lines and a count of the rest."""
    faults = _faults(_file(tmp_path, *["x"] * (MAX_FAULTS + 7)))
    assert (len(faults), "7 more are wrong" in faults[-1]) == (MAX_FAULTS + 1, True)


def test_invalid_utf8_is_reported_by_line(tmp_path: Path):
    """A file in another encoding is refused at its first invalid line."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(CHAT).encode() + b'\n{"text": "\xe4"}\n')
    assert _faults(path) == ["data.jsonl:2: is not UTF-8 (byte 11 of the line: 0xe4); save the file as UTF-8"]


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_a_file_without_a_row_is_refused(content: str, tmp_path: Path):
    """A file without rows is refused."""
    path = tmp_path / "data.json"
    path.write_text(content)
    assert _faults(path)[0].startswith("data.json: contains no row")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "data.json:1: is not a JSON array"),
        ('[\n{"text": "a"}\n{"text": "b"}]', "data.json:2: is not JSON (a comma or ] is missing"),
        ('[{"text": "a"},\n{"text": }]', "data.json:2: is not JSON"),
        ('[{"text": "a"}', "data.json:1: is not JSON"),
        ('[{"text": "a"}]\n[]', "has more after the array"),
    ],
)
def test_a_broken_array_is_refused_by_line(content: str, message: str, tmp_path: Path):
    """A fault in an array is reported with its line, as for JSON lines."""
    path = tmp_path / "data.json"
    path.write_text(content)
    assert message in _faults(path)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.jsonl", "No such file"),
        (lambda folder: _file(folder, CHAT, name="data.csv"), "is neither a .jsonl nor a .json file"),
        (lambda folder: _folder(folder / "x.jsonl"), "Is a directory"),
    ],
)
def test_an_invalid_data_file_is_refused(make: Callable[[Path], Path], message: str, tmp_path: Path):
    """A missing file, another format and a folder are refused."""
    with pytest.raises(BadInput, match=message):
        read_data(make(tmp_path), "sft")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_prompt_that_ends_with_an_answer_is_refused(tmp_path: Path):
    """A prompt that ends with an answer is refused, as GRPO generates the answers."""
    assert "ends with an assistant turn" in _faults(_file(tmp_path, {"prompt": CHAT["messages"]}), "grpo")[0]


def test_sft_and_grpo_take_different_files(tmp_path: Path):
    """Chats are refused for GRPO, and prompts for SFT."""
    assert "those of one form: prompt" in _faults(_file(tmp_path, CHAT), "grpo")[0]
    assert "has the keys prompt, answer" in _faults(_file(tmp_path, {"prompt": "a", "answer": "b"}))[0]


def test_unknown_keys_are_reported(tmp_path: Path):
    """Unknown keys are allowed, and reported."""
    assert read_data(_file(tmp_path, {**CHAT, "id": 7, "source": "x"}), "sft").unused == ("id", "source")
