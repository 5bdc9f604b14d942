"""Whether what was loaded is what was asked for: the engine, the quantization, the loader, and whose weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loadcheck.figures import Reading
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.specs.model import find_model, known_owners
from loadcheck.specs.profile import Profile
from loadcheck.specs.versions import is_release, load_versions
from loadcheck.stacks.unsloth_vllm.identities import pinned_unsloth_zoo

SUFFIX = "-bnb-4bit"
"""unsloth_zoo/vllm_utils.py at 2025.2.4 loads in 4 bits where the name ends so, whatever else is asked for."""

# The keyword arguments of vLLM's BitsAndBytesConfig that say what is loaded, by attribute: what nf4 needs.
_NF4 = {
    "load_in_8bit": ("False",), "load_in_4bit": ("True",), "quant_type": ("nf4",), "double_quant": ("True",), "quant_storage": ("uint8",),
}  # fmt: skip
# unsloth_zoo/vllm_utils.py at 2025.2.4, load_vllm: by quantization
_LOADERS = {"nf4": ("bitsandbytes",), "16bit": ("auto", "safetensors")}


def check_asked(evidence: Evidence) -> Iterator[Finding]:
    """Every line that says what the engine loaded, against the quantization and the model that were asked for."""
    yield from _engine(evidence)
    yield from _owner(evidence)
    if evidence.strict_stack or pinned_unsloth_zoo(evidence.attempt):  # another month's unsloth asks for other things
        yield from _nf4(evidence)
        yield from _loader(evidence)
        yield from _settings(evidence)
        yield from _suffix(evidence)
    if evidence.profile is not None and evidence.process is not None:
        yield from _local(evidence, evidence.profile)


def _engine(evidence: Evidence) -> Iterator[Finding]:
    """unsloth reaches into vLLM's V0 engine for its weights (unsloth_zoo/vllm_utils.py, get_vllm_state_dict)."""
    reading, unsloth = evidence.attempt.reading("engine"), evidence.attempt.reading("unsloth")
    if reading is None or unsloth is None or not is_release(str(unsloth.value), load_versions().version("unsloth")):
        return
    yield evidence.finding(reading, Check.STACK, reading.value == "V0", predicted="V0",
                           why=f"unsloth {unsloth.value} works with vLLM's V0 engine alone",
                           remedy="unset VLLM_USE_V1, or set VLLM_USE_V1=0, before the load")  # fmt: skip


def _nf4(evidence: Evidence) -> Iterator[Finding]:
    """What vLLM's bitsandbytes settings say, where the load is in 4 bits: fp4 takes as many bytes as nf4."""
    for attribute, wanted in _NF4.items():
        if attribute == "double_quant" and evidence.config is None and evidence.profile is None:
            continue  # a checkpoint of whatever kind
        for reading in _readings(evidence, attribute):
            yield evidence.finding(reading, Check.STACK, reading.value in wanted, predicted=wanted[0],
                                   why="NF4 with double quantization is what is predicted and asked for",
                                   remedy=f"load a checkpoint whose quantization_config says {reading.spec.name} {wanted[0].lower()}")  # fmt: skip


def _loader(evidence: Evidence) -> Iterator[Finding]:
    reading, quantization = evidence.attempt.reading("load_format"), evidence.attempt.reading("quantization")
    if reading is None:
        return
    wanted = _LOADERS.get(str(quantization.value), ()) if quantization is not None else ()
    if reading.value == "dummy":
        yield evidence.finding(reading, Check.STACK, False, predicted=wanted[0] if wanted else None,
                               why="dummy weights are random numbers: no checkpoint was read",
                               remedy="load without load_format='dummy'")  # fmt: skip
    elif wanted:
        yield evidence.finding(reading, Check.STACK, reading.value in wanted, predicted=wanted[0],
                               why=f"quantization {quantization.value if quantization else None} is read by the loader {wanted[0]}",
                               remedy="load with unsloth's own load_format, or give the raw output of one load")  # fmt: skip


def _settings(evidence: Evidence) -> Iterator[Finding]:
    """What unsloth leaves as it is, and every figure rests on (unsloth_zoo/vllm_utils.py at 2025.2.4, load_vllm)."""
    wanted_of = {
        "kv_cache_dtype": "auto",
        "device": "cuda",
        "pipeline_parallel_size": "1",
        "speculative_config": "None",
        "prefix_caching": "True",
    }
    if (dtype := evidence.attempt.reading("dtype")) is not None:
        wanted_of["compute_dtype"] = str(dtype.value)
    for attribute, wanted in wanted_of.items():
        reading = evidence.attempt.reading(attribute)
        if reading is not None:
            yield evidence.finding(reading, Check.STACK, reading.value == wanted, predicted=wanted,
                                   why=f"unsloth loads with {reading.spec.name} {wanted}",
                                   remedy="load with unsloth's own settings, or give the raw output of one load")  # fmt: skip


def _suffix(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint whose name says 4 bits, loaded in 16: nothing else in the log would look wrong."""
    model, quantization = evidence.attempt.reading("model"), evidence.attempt.reading("quantization")
    if model is None or quantization is None or not str(model.value).lower().rstrip("/").endswith(SUFFIX):
        return
    yield evidence.finding(quantization, Check.STACK, quantization.value == "nf4", predicted="nf4",
                           why=f"{model.value} is a 4-bit checkpoint by its name",
                           remedy="the weights were loaded without quantization: load with load_in_4bit=True, and look whether the "
                           "checkpoint's config.json has its quantization_config")  # fmt: skip


def _owner(evidence: Evidence) -> Iterator[Finding]:
    """A note where a known model's name stands under another owner: the shape is judged, the weights are not known."""
    noted: set[str] = set()
    for reading in _readings(evidence, "model"):
        name = str(reading.value)
        owner, slash, base = name.partition("/")
        if not slash or "/" in base or not owner or owner.startswith((".", "~")) or name in noted:
            continue  # no name of the hub: a path
        noted.add(name)
        model = find_model(name)
        if model is not None and owner.lower() not in known_owners(model):
            yield Finding(
                figure="model", check=Check.STACK, status=Status.SKIPPED, measured=name, where=evidence.where(reading.line),
                why=f"{name} is judged as {model.name}, but is of another owner than {', '.join(sorted(known_owners(model)))}: the same "
                "shape, and weights that nobody here knows",
            )  # fmt: skip


def _local(evidence: Evidence, profile: Profile) -> Iterator[Finding]:
    """A run of a directory of the user's own: what was loaded has that directory's name, and came from there."""
    reading = evidence.attempt.reading("model")
    if reading is not None and find_model(profile.model) is None:
        asked, loaded = _directory_name(profile.model), _directory_name(str(reading.value))
        yield evidence.finding(reading, Check.STACK, asked == loaded, predicted=asked,
                               why=f"the run asked for {profile.model}",
                               remedy="another model was loaded than the run asked for: load again")  # fmt: skip
    ready = evidence.attempt.event("weights_ready") or {}
    source = ready.get("source")
    if source is not None:
        same = source == profile.weights
        yield Finding(figure="weights source", check=Check.STACK, status=Status.OK if same else Status.FAIL, predicted=profile.weights,
                      measured=str(source), why=f"the run asked for {profile.weights} weights",
                      remedy="" if same else "other weights were loaded than the run asked for: load again")  # fmt: skip


def _directory_name(path: str) -> str:
    """The last name of a directory, links followed where it is on this machine."""
    try:
        return Path(path).expanduser().resolve().name.lower()
    except (OSError, RuntimeError, ValueError):  # no home, a ring of links, a name that is none
        return Path(path).name.lower()


def _readings(evidence: Evidence, attribute: str) -> list[Reading]:
    return [reading for reading in evidence.attempt.readings if reading.attribute == attribute]
