"""The settings that change this stack's memory: in which steps, and in which order they are tried where memory is short.

The order is fixed, from the least to the greatest loss for the user:

1. fewer sequences (conservativeness): fewer answers at once, each as good and as long as before;
2. another gpu_memory_utilization: lower where LoRA slots, CUDA graphs, adapters or training need the room, at the cost of KV cache;
   higher where the KV cache is short, at the cost of that room;
3. a shorter max_seq_length: long requests are refused;
4. a smaller rank: the adapters learn less;
5. no adapters on q, k, v and o: they learn still less;
6. the switches of a profile that state their cost (specs/settings.py), such as no CUDA graphs: every answer is slower, and the load's
   log is no longer that of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from loadcheck.predict.case import Case
from loadcheck.predict.search import LENGTH_STEP, UTILIZATION_STEPS, at_length, at_utilization
from loadcheck.predict.stack import Concession, Rung
from loadcheck.specs.files import changed
from loadcheck.specs.profile import VLLM_LORA_RANKS, Profile
from loadcheck.specs.settings import Flag, settings_of, switched_on
from loadcheck.specs.shape import MLP_LINEARS
from loadcheck.specs.trouble import Shortage
from loadcheck.units import round_up

SHARES = (0.9, 0.75, 0.5, 0.25, 0.1)
"""The steps to lower conservativeness to. 0.75 is the value of unsloth's own retry (unsloth_zoo/vllm_utils.py:1007)."""
PROPOSED_SHARES = (1.0, 0.5, 0.25, 0.1)
"""The values of it that `fit` proposes."""
LENGTHS = 64
"""The largest number of shorter lengths to try."""
GROWING: tuple[Shortage, ...] = ("kv_estimate", "kv_cache")
"""What grows with the utilization; room beside the budget shrinks."""


def smaller_rank(profile: Profile) -> Profile | None:
    """With the next smaller rank that vLLM accepts, for slots and adapters; None where there is none."""
    ranks = [rank for rank in VLLM_LORA_RANKS if rank < profile.max_lora_rank]
    if not ranks:
        return None
    of_adapters = {} if profile.adapters is None else {"adapters.r": min(profile.adapters.r, ranks[-1])}
    return changed(profile, {"max_lora_rank": ranks[-1], **of_adapters})


def mlp_only(profile: Profile) -> Profile | None:
    """Without adapters on q, k, v and o; None where there are none."""
    adapters = profile.adapters
    if adapters is None or not set(adapters.target_modules) > set(MLP_LINEARS):
        return None
    return changed(profile, {"adapters.target_modules": MLP_LINEARS})


def knobs(profile: Profile) -> Iterator[tuple[str, Profile]]:
    """Each setting changed by one step from `profile`, with the step in words."""
    yield from engine_knobs(profile, "conservativeness", profile.conservativeness / 2)
    if (smaller := smaller_rank(profile)) is not None:
        yield f"rank {profile.max_lora_rank} → {smaller.max_lora_rank}", smaller
    if (fewer := mlp_only(profile)) is not None:
        yield "no q, k, v, o adapters", fewer
    yield from switched_on(profile)


def engine_knobs(profile: Profile, sequences: str, halved: float) -> Iterator[tuple[str, Profile]]:
    """The steps in vLLM's own settings; `sequences` is the key that limits the sequences of this stack."""
    hundredths = round(profile.gpu_memory_utilization * UTILIZATION_STEPS)
    if hundredths > 5:
        yield "gpu_memory_utilization − 0.05", at_utilization(profile, hundredths - 5)
    yield f"{sequences} halved", changed(profile, {sequences: halved})
    if profile.max_seq_length >= 2 * LENGTH_STEP:
        yield "max_seq_length halved", at_length(profile, profile.max_seq_length // 2)


def concessions(case: Case) -> Iterator[Concession]:
    """What a user could give up where no setting fits."""
    profile = case.profile
    if case.config.quantization == "16bit":
        quantized = replace(case, config=changed(case.config, {"quantization": "nf4"})).changed({"load_in_4bit": True})
        yield ((("a 4-bit checkpoint of the model" if profile.load_in_4bit else "in 4-bit"), quantized),)
    yield tuple(
        (f"rank {smaller.max_lora_rank}", case.with_profile(smaller)) for smaller in _smaller_ranks(profile, None)
    )
    if (fewer := mlp_only(profile)) is not None:
        yield (("no q, k, v, o adapters", case.with_profile(fewer)),)
    yield from (((words, case.with_profile(switched)),) for words, switched in switched_on(profile))


def _fewer_sequences(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
    for share in SHARES:
        if share < profile.conservativeness:
            yield changed(profile, {"conservativeness": share})


def _other_utilization(profile: Profile, short: Shortage | None) -> Iterator[Profile]:
    """Up or down by hundredths, nearest first."""
    now = profile.gpu_memory_utilization * UTILIZATION_STEPS
    steps = range(1, UTILIZATION_STEPS) if short in GROWING else range(UTILIZATION_STEPS - 1, 0, -1)
    for hundredths in steps:
        if (hundredths > now) if short in GROWING else (hundredths < now):
            yield at_utilization(profile, hundredths)


def _shorter(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
    """In multiples of 256, and of at least a 64th of the length, because each step of the search costs a hundred predictions."""
    length = profile.max_seq_length
    by = max(round_up(length // LENGTHS, LENGTH_STEP), LENGTH_STEP)
    yield from (at_length(profile, shorter) for shorter in range((length - 1) // by * by, 0, -by))


def _smaller_ranks(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
    while (smaller := smaller_rank(profile)) is not None:
        profile = smaller
        yield profile


def _fewer_targets(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
    if (fewer := mlp_only(profile)) is not None:
        yield fewer


def _switch(flag: Flag) -> Rung:
    """A rung that turns a switch on."""

    def turned(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
        if not getattr(profile, flag.key):
            yield changed(profile, {flag.key: True})

    return Rung(flag.setting.words, flag.setting.costs, (flag.key,), turned)


SWITCHES = tuple(_switch(flag) for flag in settings_of(Profile) if flag.setting.costs)
RUNGS = (
    Rung("fewer sequences", "answers at once", ("conservativeness",), _fewer_sequences, with_utilization=False),
    Rung(
        "another utilization",
        "KV cache, or room beside it",
        ("gpu_memory_utilization",),
        _other_utilization,
        with_utilization=False,
    ),
    Rung("shorter requests", "long requests", ("max_seq_length",), _shorter),
    Rung("smaller rank", "what adapters can learn", ("max_lora_rank", "adapters.r"), _smaller_ranks),
    Rung("no q, k, v, o adapters", "what adapters can learn", ("adapters.target_modules",), _fewer_targets),
    *SWITCHES,
)
