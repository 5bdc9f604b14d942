"""Which checkpoint unsloth really loads for a name: its own table sends most names to another (env/stacks/unsloth_vllm/names.toml)."""

from __future__ import annotations

from functools import cache

from loadcheck.errors import BadInput
from loadcheck.predict.stack import Resolved
from loadcheck.specs.files import Spec, changed, env_dir, load
from loadcheck.specs.model import DYNAMIC_SUFFIX, find_model, is_dynamic, is_local, resolve_model, unknown_model
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm.quantization import is_supported


class _Names(Spec, frozen=True, kw_only=True):
    """The tables of unsloth/models/mapper.py: the checkpoint, and the names in lower case that it is loaded for."""

    in_4bit: dict[str, tuple[str, ...]]
    from_4bit: dict[str, tuple[str, ...]]
    in_16bit: dict[str, tuple[str, ...]]


@cache
def _tables() -> dict[str, dict[str, str]]:
    names = load(_Names, env_dir() / "stacks" / "unsloth_vllm" / "names.toml")
    return {
        table: {name: checkpoint for checkpoint, each in getattr(names, table).items() for name in each}
        for table in ("in_4bit", "from_4bit", "in_16bit")
    }


def loaded_for(name: str, load_in_4bit: bool) -> str:
    """The checkpoint that `from_pretrained(name, load_in_4bit)` loads; the name itself where unsloth knows no other.

    unsloth/models/loader_utils.py:23-120 at 2025.2.5, without use_exact_model_name and without its look at the newest table online.
    """
    tables, lower = _tables(), name.lower()
    if load_in_4bit:
        return tables["in_4bit"].get(lower, name)
    return tables["from_4bit"].get(lower) or tables["in_16bit"].get(lower, name)


def resolve(profile: Profile) -> Resolved:
    """The model that a script with this profile's name and settings would really load, and what is to be said of it.

    BadInput where neither the name nor what unsloth makes of it is known.
    """
    name = profile.model
    if is_local(name):
        return _local(profile)
    if name.count("/") != 1:
        return Resolved(*resolve_model(name, profile.load_in_4bit))
    loaded = loaded_for(name, profile.load_in_4bit)
    if loaded.lower() == name.lower() or not is_dynamic(loaded):
        return Resolved(*resolve_model(name, profile.load_in_4bit))
    return _dynamic(name, loaded)


def _local(profile: Profile) -> Resolved:
    """A folder or a config.json, which says itself how it is quantized; load_in_4bit quantizes nothing (vllm_utils.py:869)."""
    title, config = resolve_model(profile.model, profile.load_in_4bit)
    note = (
        f"{profile.model} has no quantization_config: vLLM loads it in 16 bits, load_in_4bit or not; for 4 bits take a checkpoint "
        "that says so, in a folder whose name ends in -bnb-4bit"
    )
    return Resolved(title, config, (note,) if profile.load_in_4bit and config.quantization == "16bit" else ())


def _dynamic(name: str, loaded: str) -> Resolved:
    """A name for which unsloth loads a dynamic quant, which keeps some layers in 16 bits."""
    model = find_model(loaded)
    if model is None:
        raise BadInput(unknown_model(name))
    config, sent = model.config_for("nf4"), f"for {name} unsloth loads {loaded}"
    if model.dynamic is None:
        note = (
            f"{sent}, some of whose layers are in 16 bits; which, its config.json alone says: predicted is the plain 4-bit checkpoint, "
            f"whose weights are smaller. Give that config.json as --model, or load {name} from a folder, which is loaded as it is"
        )
        return Resolved(model.name, config, (note,))
    if not model.dynamic or not is_supported(model.dynamic):
        plain = loaded.removesuffix(DYNAMIC_SUFFIX) + "-bnb-4bit"
        return Resolved(model.name, config, (f"{sent}, and as vLLM cannot load that, {plain} instead",))
    note = f"{sent}, with {', '.join(model.dynamic)} in 16 bits: that is predicted; `loadcheck load` takes the plain one, from a folder"
    return Resolved(loaded, changed(config, {"kept_modules": model.dynamic}), (note,))
