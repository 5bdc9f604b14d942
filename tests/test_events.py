"""Events: one record each, with a stable format, read field by field so that a damaged line loses nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from loadcheck.checking import gather
from loadcheck.logs import parse_log
from loadcheck.logs.dialect import Dialect, merged
from loadcheck.logs.event import Count, Event, name_of
from loadcheck.logs.event_lines import EVENT_ANCHOR, Fault, format_event, read_event, split_event
from loadcheck.logs.events import KINDS, Answered, Attached, Device, Done, Started, Stepped, TrainBegin, Trained
from loadcheck.runs.steps import Step
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.transformers_cpu import events as of_a_cpu
from loadcheck.verdict import Finding, Status, judge
from tests.conftest import RUNS, thinned

KEPT = (*sorted(RUNS.rglob("load.log")), Path(__file__).parent / "training" / "run" / "load.log")
CPU_EVENTS: dict[str, type[Event]] = KINDS | {"adapters": of_a_cpu.Attached, "trained": of_a_cpu.Trained}
WRONG: tuple[Any, ...] = ([], "x", -1, True, None, 1e400, 10**30, {"a": []}, "9.08", 0.5)


def _lines(log: Path) -> list[str]:
    return [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith(EVENT_ANCHOR)]


@pytest.mark.parametrize("log", thinned(KEPT), ids=lambda log: log.parent.name)
def test_the_format_of_events_is_stable(log: Path):
    """Written again, each event of a kept run is the same line to the byte: names, order, null and omitted fields."""
    kinds = CPU_EVENTS if "training" in log.parts else KINDS
    for line in _lines(log):
        data = split_event(line)[1]
        assert format_event(kinds[data["event"]](**{name: data[name] for name in data if name != "event"})) == line


@pytest.mark.parametrize("log", thinned(KEPT), ids=lambda log: log.parent.name)
def test_every_event_of_a_kept_run_is_read(log: Path):
    """Each event of a kept run is read without faults or unknown fields, and with the same values."""
    for line in _lines(log):
        data = split_event(line)[1]
        logged = read_event(1, data, CPU_EVENTS)
        assert logged.faults == ()
        assert {"event": logged.name, **{name: getattr(logged.event, name) for name in data if name != "event"}} == data


FIELDS = [(kind, field) for kind in KINDS.values() for field in structs.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "field"), thinned(FIELDS), ids=lambda each: getattr(each, "name", getattr(each, "__name__", ""))
)
def test_every_field_refuses_wrong_values(kind: type[Event], field: structs.FieldInfo):
    """A wrong value for a field is a fault with words, and the record holds None; at most three of the values fit any type."""
    logged = [read_event(7, {"event": name_of(kind), field.name: value}) for value in WRONG]
    faults = [each.faults[0] for each in logged if each.faults]
    assert len(faults) >= len(WRONG) - 3
    assert all(fault.field == field.name and fault.wanted for fault in faults)
    assert all(getattr(each.event, field.name) is None for each in logged if each.faults)


def test_which_fields_may_be_null():
    """Engines omit what they do not know; null means that there is no such thing, and is allowed in these fields only."""
    may = {(name_of(kind), field.name) for kind, field in FIELDS
           if not read_event(1, {"event": name_of(kind), field.name: None}).faults}  # fmt: skip
    assert may == {
        *((answer, name) for answer in ("answer", "answer_after_training") for name in ("expected", "found", "first_token_unix_s")),
        ("step", "loss"), ("train_step", "loss"),
        *((done, name) for done in ("trained", "train_done") for name in ("first_loss", "last_loss")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({"event": "answer", "num_new_tokens": "x"}, "a whole number, not below 0"),
        ({"event": "answer", "found": 1}, "true or false or null"),
        ({"event": "answer", "prompt": 1}, "text"),
        ({"event": "answer", "at_s": -1}, "seconds, not below 0"),
        ({"event": "answer", "first_token_unix_s": "x"}, "seconds, not below 0 or null"),
        ({"event": "imported", "versions": {}}, "a version by package"),
        ({"event": "device", "compute_capability": "9"}, "a compute capability such as 9.0"),
        ({"event": "weights", "by_kind": {"norms": -1}}, "bytes by kind"),
    ],
)
def test_a_fault_names_what_the_field_must_be(data: dict[str, Any], wanted: str):
    """A fault names what the field must be, in the words of the finding."""
    assert [fault.wanted for fault in read_event(1, data).faults] == [wanted]


def test_a_wrong_field_loses_nothing_else(tmp_path: Path):
    """A wrong field loses neither the event nor its other fields and figures; the verdict names the field and the line."""
    log = tmp_path / "load.log"
    log.write_text('x\nloadcheck: {"event": "adapters", "adapter_bytes": 9, "trainable_params": "8", "attach_s": 2}\n')
    evidence = gather(log)
    attached = evidence.attempt.last(Attached)
    assert (attached.adapter_bytes, attached.trainable_params, attached.attach_s) == (9, None, 2.0)
    assert evidence.attempt.events[0].faults == (Fault("trainable_params", "8", "a whole number, not below 0"),)
    assert evidence.attempt.figures.adapter_bytes == 9
    assert [str(each.where) for each in _on_events(judge(evidence).findings)] == ["load.log:2"]


def _on_events(findings: tuple[Finding, ...]) -> list[Finding]:
    return [
        each for each in findings if each.status is Status.FAIL and "the engine's event" in each.why and each.measured
    ]


@pytest.mark.parametrize(
    "newer", ['{"event": "cooled", "fan_s": -1, "loss": [], "max_model_len": 512}', '{"event": "done", "max_model_len": 512, "of": {}}']
)  # fmt: skip
def test_events_of_a_newer_version_are_kept(newer: str, tmp_path: Path):
    """An event or field of a newer version is no fault: it is kept, and its figures are read."""
    log = tmp_path / "load.log"
    log.write_text(f"loadcheck: {newer}\n")
    attempt = parse_log(log, Dialect()).last
    assert attempt.events[0].data == json.loads(newer)
    assert attempt.events[0].faults == ()
    assert attempt.figures.max_model_len == 512
    assert (attempt.last(Done) is None) == ("cooled" in newer)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\u0000"', '"' + "x" * 100_000 + '"'])
def test_any_text_is_valid(text: str):
    """Half a surrogate pair, a null character and a very long text are valid."""
    logged = read_event(1, {"event": "answer", "text": json.loads(text)})
    assert isinstance(logged.event, Answered)
    assert (logged.faults, logged.event.text) == ((), json.loads(text))


def test_events_are_found_by_class(tmp_path: Path):
    """last() and all() go by the class: an answer after training is not an answer of the loaded model."""
    log = tmp_path / "load.log"
    steps = "".join(format_event(Stepped(step=number, loss=None)) + "\n" for number in range(3))
    log.write_text(steps + 'loadcheck: {"event": "answer_after_training"}\n')
    attempt = parse_log(log, Dialect()).last
    assert [step.step for step in attempt.all(Stepped)] == [0, 1, 2]
    assert attempt.last(Stepped).step == 2
    assert (attempt.last(Answered), attempt.last(Trained), attempt.all(Device)) == (None, None, [])


def test_memory_figures_of_steps_and_of_a_trainings_start():
    """The trainer records any memory figures that its backend measures (stacks/step_monitor.py), before it is made and at its first step."""
    measured = {name for name in Step.__struct_fields__ if name.endswith("_bytes")}
    assert {f"train_{when}{name}" for name in measured for when in ("", "before_")} <= {*TrainBegin.__struct_fields__}


class VersionText(str):
    """A str subclass, like torch's version."""


def test_a_str_subclass_is_written_as_text():
    """A version of a package's own class is written as text."""
    line = format_event(Started(torch=VersionText("2.5.1+cu124")))
    assert line == 'loadcheck: {"event": "started", "torch": "2.5.1+cu124"}'


def test_a_recorder_adds_the_seconds(capsys: pytest.CaptureFixture[str]):
    """Each event is on its own line, with the seconds right after its name."""
    Recorder().record(Trained(train_s=1.5, first_loss=None, last_loss=None, used_bytes=3, steps=2))
    blank, line = capsys.readouterr().out.removesuffix("\n").split("\n")
    data = split_event(line)[1]
    assert blank == "" and 0 <= data["at_s"] < 60
    assert list(data) == ["event", "at_s", "steps", "train_s", "first_loss", "last_loss", "used_bytes"]


class Cooled(Event, frozen=True, kw_only=True, tag="cooled"):
    """An event of the toy stack."""

    num_fans: Count | None = None


def test_a_stack_may_have_its_own_events(tmp_path: Path):
    """The events that a stack's dialect names are read like ours, also after dialects are merged."""
    log = tmp_path / "load.log"
    log.write_text(f'{format_event(Cooled(num_fans=3))}\nloadcheck: {{"event": "cooled", "num_fans": -3}}\n')
    attempt = parse_log(log, merged([Dialect(), Dialect(events=(Cooled,))])).last
    assert [each.num_fans for each in attempt.all(Cooled)] == [3, None]
    assert [len(logged.faults) for logged in attempt.events] == [0, 1]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_events_docstring_says_who_records_it(kind: type[Event]):
    """Each event's docstring says who records it and when; the fields of larger ones are described."""
    assert kind.__doc__ and kind.__doc__ != Event.__doc__
