"""What this stack needs of a machine and its environment, beyond doctor's general checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loadcheck.machine import Check, Finding, Level, Machine, ok, problem, warning
from loadcheck.machine.ram import ram_for
from loadcheck.plan import LoadPlan
from loadcheck.predict import Case
from loadcheck.predict.card import card_of
from loadcheck.specs.model import ADAPTER_CONFIG, is_dynamic
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm.names import SUFFIX_4BIT, loaded_for
from loadcheck.stacks.unsloth_vllm.plan import swap_space_bytes
from loadcheck.stacks.unsloth_vllm.prediction import predict
from loadcheck.stacks.unsloth_vllm.refusals import known_warnings
from loadcheck.units import show_bytes

PACKAGES = (
    "torch", "triton", "vllm", "unsloth", "unsloth_zoo", "xformers", "transformers", "peft", "trl", "accelerate", "bitsandbytes",
    "protobuf", "numpy", "setuptools",
)  # fmt: skip
CHANGING = {
    "VLLM_USE_V1": "v1-engine",
    "UNSLOTH_USE_MODELSCOPE": "modelscope",
    "UNSLOTH_VLLM_STANDBY": "standby",
    "BNB_CUDA_VERSION": "bitsandbytes-library",
}
"""Variables that change a load, each with its entry in env/troubles.toml."""
VARIABLES = (*CHANGING, "PYTORCH_CUDA_ALLOC_CONF")
UUIDS = ("GPU-", "MIG-")
MAX_SWAP_SHARE = 0.7
"""Of the host's memory (vllm/config.py:1145 at 0.7.2)."""


def check_swap(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether the host's memory suffices for vLLM's swap space."""
    needed = swap_space_bytes(machine.ram_available_bytes)
    if needed > MAX_SWAP_SHARE * machine.ram_total_bytes:
        what = f"vLLM's swap space of {show_bytes(needed)} is over 70 % of {show_bytes(machine.ram_total_bytes)}"
        yield problem("ram", what, "swap-too-large", cannot=True)
        return
    yield from ram_for(machine, needed)


def check_after_load(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """What may fail after a load that fits, because of the card, or because the settings leave too little memory."""
    gpu = machine.gpu
    if gpu is None:
        return
    card = card_of(gpu)
    if card.refused is not None:
        return
    card_warnings = tuple(known_warnings(card))
    for what in card_warnings:
        why, remedy = (
            "the load itself may pass, but the engine may die at a later prompt",
            "use a card of 7.5 or newer",
        )
        yield Finding(check="capability", level=Level.WARNING, what=what, why=why, remedy=remedy,
                      references=("vllm/attention/ops/prefix_prefill.py",))  # fmt: skip
    case = Case.of(plan, card, machine.ram_available_bytes)
    for what in (note for note in predict(case).warnings if note not in card_warnings):
        why, remedy = "the load itself fits, and answers once", "`loadcheck fit` finds settings that hold a full batch"
        yield Finding(check="memory", level=Level.WARNING, what=what, why=why, remedy=remedy)


def check_pinned_memory(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """unsloth's own checkpointing moves activations to pinned host memory, of which WSL2 offers little (unsloth_zoo/gradient_checkpointing.py)."""
    adapters = plan.profile.adapters
    if machine.is_wsl and adapters is not None and adapters.use_gradient_checkpointing == "unsloth":
        what = 'this is WSL2, and the profile has use_gradient_checkpointing = "unsloth"'
        yield warning("pinned-memory", what, "oom-pinned")


def check_xformers_edit(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """unsloth's edit of xformers, made on its first import if the file is writable."""
    if machine.has_edited_xformers is True:
        yield ok("xformers-edit", "xformers/ops/fmha/cutlass.py has unsloth's edit (num_splits_key=None)",
                 "unsloth/__init__.py:98-117 makes it at import")  # fmt: skip
    elif machine.has_edited_xformers is False:
        yield ok("xformers-edit", "xformers/ops/fmha/cutlass.py is unchanged; unsloth will edit it on its first import",
                 "unsloth/__init__.py:98-117, silently skipped where the file is not writable; it changes no memory figure")  # fmt: skip


def check_visible_devices(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """The values of CUDA_VISIBLE_DEVICES that break unsloth_zoo 2025.2.4."""
    value = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if value in (None, "0"):
        yield ok("visible-devices", "CUDA_VISIBLE_DEVICES is " + ("not set" if value is None else "0"))
    else:
        assert value is not None
        trouble_id = "visible-devices-uuid" if value.startswith(UUIDS) else "visible-devices"
        yield problem("visible-devices", f"CUDA_VISIBLE_DEVICES={value!r}: {_why_it_breaks(value)}", trouble_id)


def _why_it_breaks(value: str) -> str:
    if not value.strip() or value.startswith("-"):
        return "no GPU is visible"
    if value.startswith(UUIDS):
        return f"torch has no device cuda:{value.partition(',')[0]}"
    if value.startswith("0,"):
        return "unsloth uses the first and warns about the others; this engine refuses it"
    return f"the only visible GPU is cuda:0, but cuda:{value.partition(',')[0]} is requested"


def check_variables(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Variables that change a load, including those that the engine unsets."""
    for name, trouble_id in CHANGING.items():
        if machine.variables.get(name):
            yield warning("variables", f"{name} is set", trouble_id)
    if machine.variables.get("PYTORCH_CUDA_ALLOC_CONF"):
        yield Finding(check="variables", level=Level.WARNING, what="PYTORCH_CUDA_ALLOC_CONF is set",
                      why="unsloth overwrites it at its import, so it has no effect", remedy="unset it",
                      references=("unsloth/__init__.py:49-51",))  # fmt: skip


def check_model_name(_: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether unsloth will quantize the model: with vLLM it looks only at the end of the name (vllm_utils.py:869)."""
    profile = plan.profile
    if not profile.fast_inference:
        return
    if profile.weights != "local":
        yield from _other_checkpoint(profile)
        yield ok("model-name", f"{plan.model_name} in {plan.quantization}, from a directory that is named accordingly",
                 f"this unsloth quantizes only models named …{SUFFIX_4BIT}, whatever load_in_4bit says")  # fmt: skip
        return
    folder = Path(profile.model).expanduser().resolve()
    if (folder / ADAPTER_CONFIG).is_file():
        yield problem(
            "model-name", f"{ADAPTER_CONFIG} lies beside the config.json of {folder.name}", "adapter-beside-model"
        )
    name = folder.name
    named, quantized = name.lower().endswith(SUFFIX_4BIT), plan.quantization == "nf4"
    if quantized and not named:
        yield problem(
            "model-name", f"{name} is quantized, but its name does not end in {SUFFIX_4BIT}", "name-without-suffix"
        )
    elif named and not quantized:
        yield problem("model-name", f"{name} ends in {SUFFIX_4BIT}, but its config.json has no quantization",
                      "suffix-without-quantization")  # fmt: skip
    elif profile.load_in_4bit and not named:
        yield problem("model-name", f"{name} will load in 16 bits, whatever load_in_4bit says", "silent-16bit")
    else:
        yield ok("model-name", f"{name} will load in {plan.quantization}, as its name says")


def _other_checkpoint(profile: Profile) -> Iterator[Finding]:
    """A script that passes this name to unsloth loads a dynamic quant; our load uses the plain checkpoint from a folder."""
    loaded = loaded_for(profile.model, profile.load_in_4bit)
    if "/" in profile.model and is_dynamic(loaded) and not is_dynamic(profile.model):
        yield Finding(check="model-name", level=Level.WARNING,
                      what=f"for {profile.model} unsloth itself loads {loaded}",
                      why="its table of names maps it there (unsloth/models/mapper.py), so a script's figures may differ",
                      remedy="use_exact_model_name=True in a script; `loadcheck load` uses the plain one, from a folder",
                      references=("unsloth/models/loader_utils.py:23-120",))  # fmt: skip


WITHOUT_ENGINE: tuple[Check, ...] = (check_pinned_memory, check_xformers_edit, check_visible_devices, check_variables)
"""For a load by unsloth without vLLM."""
CHECKS: tuple[Check, ...] = (check_swap, check_after_load, *WITHOUT_ENGINE, check_model_name)
