"""Which checkpoint unsloth really loads for a name: its own table maps most names to another (env/stacks/unsloth_vllm/names.toml)."""

from __future__ import annotations

from functools import cache

from loadcheck.errors import BadInput
from loadcheck.predict.stack import Resolved
from loadcheck.specs.files import Spec, changed, env_dir, load
from loadcheck.specs.model import (
    DYNAMIC_SUFFIX,
    find_model,
    is_dynamic,
    is_local,
    known_owners,
    resolve_model,
    unknown_model,
)
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm.quantization import is_supported

SUFFIX_4BIT = "-bnb-4bit"
"""unsloth_zoo/vllm_utils.py at 2025.2.4 loads a checkpoint with this suffix in 4 bits, whatever was requested."""


class _Names(Spec, frozen=True, kw_only=True):
    """The tables of unsloth/models/mapper.py: a checkpoint, and the names in lower case that are mapped to it."""

    in_4bit: dict[str, tuple[str, ...]]
    from_4bit: dict[str, tuple[str, ...]]
    in_16bit: dict[str, tuple[str, ...]]


@cache
def _tables() -> dict[str, dict[str, str]]:
    names = load(_Names, env_dir() / "stacks" / "unsloth_vllm" / "names.toml")
    return {
        table: {name: checkpoint for checkpoint, aliases in getattr(names, table).items() for name in aliases}
        for table in ("in_4bit", "from_4bit", "in_16bit")
    }


def loaded_for(name: str, load_in_4bit: bool) -> str:
    """The checkpoint that `from_pretrained(name, load_in_4bit)` loads; the name itself where unsloth's tables do not map it.

    unsloth/models/loader_utils.py:23-120 at 2025.2.5, without use_exact_model_name and without its download of the newest table.
    """
    tables, lower = _tables(), name.lower()
    if load_in_4bit:
        return tables["in_4bit"].get(lower, name)
    return tables["from_4bit"].get(lower) or tables["in_16bit"].get(lower, name)


def resolve(profile: Profile) -> Resolved:
    """The model that a script with this profile's name and settings would really load, and notes about it.

    BadInput where neither the name nor its mapping is known.
    """
    name = profile.model
    if is_local(name):
        return _local(profile)
    if name.count("/") != 1:
        return Resolved(*resolve_model(name, profile.load_in_4bit))
    loaded = loaded_for(name, profile.load_in_4bit)
    if loaded.lower() == name.lower() or not is_dynamic(loaded):
        return Resolved(*resolve_model(name, profile.load_in_4bit), _owner_note(name))
    return _dynamic(name, loaded)


def _owner_note(name: str) -> tuple[str, ...]:
    """For a hub name of a known model: whether its owner is unknown."""
    model, owner = find_model(name), name.partition("/")[0]
    if model is None or owner.lower() in known_owners(model):
        return ()
    return (
        f"{name} is predicted as {model.name}, whose name it has: nobody compared the two, so its shape and weights may differ",
    )


def _local(profile: Profile) -> Resolved:
    """A folder or a config.json states its own quantization; load_in_4bit quantizes nothing (vllm_utils.py:869)."""
    title, config = resolve_model(profile.model, profile.load_in_4bit)
    note = (
        f"{profile.model} has no quantization_config: vLLM loads it in 16 bits, whatever load_in_4bit says; for 4 bits use a checkpoint "
        "that has one, in a folder whose name ends in -bnb-4bit"
    )
    return Resolved(title, config, (note,) if profile.load_in_4bit and config.quantization == "16bit" else ())


def _dynamic(name: str, loaded: str) -> Resolved:
    """A name that unsloth maps to a dynamic quant, which keeps some layers in 16 bits."""
    model = find_model(loaded)
    if model is None:
        raise BadInput(unknown_model(name))
    config, mapping = model.config_for("nf4"), f"for {name} unsloth loads {loaded}"
    if model.dynamic is None:
        note = (
            f"{mapping}, some of whose layers are in 16 bits; only its config.json says which. The prediction is for the plain 4-bit "
            f"checkpoint, whose weights are smaller. Give that config.json as --model, or load {name} from a folder, which is loaded as it is"
        )
        return Resolved(model.name, config, (note,))
    if not model.dynamic or not is_supported(model.dynamic):
        plain = loaded.removesuffix(DYNAMIC_SUFFIX) + SUFFIX_4BIT
        return Resolved(model.name, config, (f"{mapping}, but vLLM cannot load that, so it loads {plain} instead",))
    note = f"{mapping}, with {', '.join(model.dynamic)} in 16 bits, and that is predicted; `loadcheck load` loads the plain one, from a folder"
    return Resolved(loaded, changed(config, {"kept_modules": model.dynamic}), (note,))
