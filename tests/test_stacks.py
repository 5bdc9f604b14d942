"""The architecture: a stack is a folder behind one record, and nothing above the stacks names one unnecessarily."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest

from loadcheck.figures import Figures
from loadcheck.findings.stack import JudgedStack
from loadcheck.predict import Case, MemoryAccount, Prediction, card_from_table
from loadcheck.predict.fit import fit
from loadcheck.predict.search import Search
from loadcheck.predict.stack import LogPrediction
from loadcheck.predict.terms import Term
from loadcheck.specs.files import changed, to_data, validate
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import OF_VLLM_ALONE, Profile, load_profile, load_profiles, with_flags
from loadcheck.specs.settings import (
    Setting,
    engine_arguments,
    figures_of_settings,
    flags,
    settings_of,
    switched_on,
    words_of,
)
from loadcheck.stacks import STACKS, engine_of, parse_log, stack_of, stack_of_log, trainer_of
from loadcheck.units import GIB
from tests.conftest import ROOT

PROFILE = load_profile("llama31-8b-instruct-4bit")


def _predict_toy(case: Case) -> Prediction:
    peak = Term("peak_device", case.profile.max_seq_length * GIB // 1024)
    figures = Figures(max_model_len=case.profile.max_seq_length, kv_cache_bytes=0, peak_device_bytes=peak.num_bytes)
    return Prediction(figures, MemoryAccount(peak, peak))


# A stack whose loads take one GiB per 1,024 tokens, and nothing else.
TOY = JudgedStack(
    name="toy",
    loads=lambda profile: profile.engine == "gpu",
    recognises=lambda _: False,
    predict=_predict_toy,
    predict_from_log=lambda *_: LogPrediction(),
)


def _case() -> Case:
    name, config = resolve_model(PROFILE.model, True)
    return Case(
        model_name=name, config=config, profile=PROFILE, card=card_from_table("T4"), ram_available_bytes=8 * GIB
    )


def test_a_minimal_stack_can_be_searched():
    """Search and fit use the record alone: the toy's longest length is what its card holds."""
    longest = Search(TOY, _case()).longest(PROFILE)
    assert longest is not None
    assert longest.profile.max_seq_length == card_from_table("T4").total_bytes * 1024 // GIB // 256 * 256
    assert fit(TOY, _case(), "length").proposals[0].profile.max_seq_length == longest.profile.max_seq_length


@pytest.mark.parametrize("profile", load_profiles(), ids=lambda profile: profile.name)
def test_every_profile_has_one_stack(profile: Profile):
    """The registry has a stack for each profile, and the stack's engine is a module."""
    assert [stack.name for stack in STACKS if stack.loads(profile)] == [stack_of(profile).name]
    assert (ROOT / "src" / Path(*stack_of(profile).engine.split("."))).with_suffix(".py").is_file()


def test_a_log_belongs_to_one_stack(t4_log: Path, tmp_path: Path):
    """A log's stack is found by its lines."""
    assert stack_of_log(parse_log(t4_log).last).name == "unsloth_vllm"
    log = tmp_path / "v1.log"
    log.write_text("INFO 01-01 00:00:00 [core.py:1] Available KV cache memory: 5.6 GiB\n", encoding="utf-8")
    assert stack_of_log(parse_log(log).last).name == "vllm_v1"


@pytest.mark.parametrize("flag", settings_of(Profile), ids=lambda flag: flag.key)
def test_settings_that_affect_memory_are_flags_of_a_proposal(flag):
    """A setting is among a proposal's flags exactly if it affects memory."""
    others = {
        bool: lambda value: not value,
        int: lambda value: value + 1,
        float: lambda value: value / 2,
        tuple: lambda value: value[:1],
    }
    data = {
        "adapters.r": 8,
        "max_lora_rank": 64,
        "weights": "synthetic",
        "adapters.use_gradient_checkpointing": True,
        "adapters.lora_dropout": 0.1,
    }
    now = _value(flag.key)
    if flag.choices:
        data.setdefault(flag.key, next(choice for choice in flag.choices if choice != now))
    value = data.get(flag.key) or others.get(flag.kind, lambda _: "other")(now or 0 if flag.kind is int else now)
    base = with_flags(PROFILE, {"loader": "vllm"}) if flag.key in OF_VLLM_ALONE else PROFILE
    assert bool(flags(with_flags(base, {flag.key: value}), base)) == flag.setting.moves_memory


class NewerProfile(Profile, frozen=True, kw_only=True):
    """A profile with one additional setting."""

    quiet_fans: Annotated[
        bool,
        Setting("Fans at half speed.", "--quiet-fans/--loud-fans", moves_memory=True, of_engine=True, argument="fan_mode",
                figure="fans", words="quiet fans", costs="coolness"),
    ] = False  # fmt: skip


def test_a_new_setting_needs_no_other_code():
    """A new setting needs no other code: its own description gives the option, flags, engine argument, log name, help and memory step."""
    loud = validate(NewerProfile, to_data(PROFILE), "newer")
    quiet = changed(loud, {"quiet_fans": True})
    flag = next(flag for flag in settings_of(NewerProfile) if flag.key == "quiet_fans")
    assert (flag.name, flag.off, flag.parameter) == ("--quiet-fans", "--loud-fans", "quiet_fans")
    assert (flags(quiet, loud), flags(loud, quiet)) == ("--quiet-fans", "--loud-fans")
    assert (engine_arguments(loud), engine_arguments(quiet)) == ({}, {"fan_mode": True})
    assert (figures_of_settings(loud)["fans"], figures_of_settings(quiet)["fans"]) == ("False", "True")
    assert (words_of(loud), words_of(quiet)) == ([], ["quiet fans"])
    assert dict(switched_on(loud))["quiet fans"] == quiet
    assert "quiet fans" not in dict(switched_on(quiet))


def _value(key: str):
    value = PROFILE
    for name in key.split("."):
        value = getattr(value, name)
    return value


NAMES = re.compile(r"vllm|unsloth|zoo|qwen2|engine ==")
CONTRACT = ("figures.py: unsloth: str", "figures.py: vllm: str")
"""Names of figures in the JSON documents."""


def test_nothing_outside_the_stacks_names_a_package():
    """Code outside the stacks names no package; comments, docstrings and texts may."""
    found = []
    for path in sorted((ROOT / "src" / "loadcheck").rglob("*.py")):
        inside = path.relative_to(ROOT / "src" / "loadcheck")
        if inside.parts[0] != "stacks":
            found += [f"{inside}: {line.strip()}" for line in _code(path) if NAMES.search(line)]
    assert [line for line in found if not line.startswith(CONTRACT)] == []


def _code(path: Path) -> list[str]:
    """The lines without strings and comments."""
    text = re.sub(r'(?s)""".*?"""', '""', path.read_text(encoding="utf-8"))
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
    return [line.partition("#")[0] for line in text.splitlines()]


def test_each_compared_command_has_its_own_file():
    """scripts/documents.py gives each command that it runs its own file name."""
    script = ROOT / "scripts" / "documents.py"
    code = f"import runpy; m = runpy.run_path({str(script)!r}); names = [m['_file_name'](c) for c in m['commands']()]; " \
           "assert len(names) == len(set(names)) > 1000"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("profile", "folder"),
    [
        (PROFILE, "unsloth_vllm"),
        (changed(PROFILE, {"fast_inference": False}), "unsloth_vllm"),
        (load_profile("smollm2-135m-cpu"), "transformers_cpu"),
    ],
)
def test_the_engine_fits_the_machine(profile: Profile, folder: str):
    """Without vLLM a GPU load is predicted as the CPU's, but run by unsloth."""
    for module in (engine_of(profile), trainer_of(profile)):
        assert module.startswith(f"loadcheck.stacks.{folder}.")
        assert (ROOT / "src" / Path(*module.split("."))).with_suffix(".py").is_file()
