"""The settings that reduce the memory of a load by vLLM alone, cheapest first, and the margins that a load leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from loadcheck.predict.account import Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.stack import Concession, Rung
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import switched_on
from loadcheck.specs.trouble import Shortage
from loadcheck.stacks.plain_vllm.plan import MAX_NUM_SEQS
from loadcheck.stacks.unsloth_vllm import margin, rungs
from loadcheck.stacks.unsloth_vllm.margin import request_bytes

SEQUENCES = (192, 128, 64, 32, 16, 8)


def _fewer_sequences(profile: Profile, _short: Shortage | None) -> Iterator[Profile]:
    now = profile.max_num_seqs or MAX_NUM_SEQS
    for sequences in SEQUENCES:
        if sequences < now:
            yield changed(profile, {"max_num_seqs": sequences})


RUNGS = (
    Rung("fewer sequences", "answers at once", ("max_num_seqs",), _fewer_sequences, with_utilization=False),
    *(rung for rung in rungs.RUNGS if rung.keys[0] in ("gpu_memory_utilization", "max_seq_length")),
    *rungs.SWITCHES,
)


def knobs(profile: Profile) -> Iterator[tuple[str, Profile]]:
    """Each setting changed by one step from `profile`, with the step in words."""
    halved = max((profile.max_num_seqs or MAX_NUM_SEQS) // 2, 1)
    yield from rungs.engine_knobs(profile, "max_num_seqs", halved)
    yield from switched_on(profile)


def concessions(case: Case) -> Iterator[Concession]:
    """What a user could give up where no setting fits."""
    if case.config.quantization == "16bit":
        quantized = replace(case, config=changed(case.config, {"quantization": "nf4"})).changed({"load_in_4bit": True})
        yield (("a 4-bit checkpoint of the model", quantized),)
    yield from (((words, case.with_profile(switched)),) for words, switched in switched_on(case.profile))


def slack(card: Card) -> dict[Shortage, int]:
    """The margin that a load must leave, because the prediction may be off by that much."""
    return {short: num_bytes for short, num_bytes in margin.slack(card).items() if short != "kv_estimate"}


def amounts_left(case: Case, prediction: Prediction) -> dict[Shortage, int]:
    """What is left of each resource that a load can run out of, in the order in which the engine uses them."""
    tokens, sequences = prediction.figures.chunked_prefill_tokens, prediction.figures.max_num_seqs
    assert tokens is not None and sequences is not None
    return {"batch": tokens - sequences, **margin.engine_left(case, prediction, ("context", "non_torch"))}


def needs(case: Case) -> dict[Shortage, int]:
    """The KV cache that one request of full length needs."""
    return {"kv_cache": request_bytes(case.config, case.profile.max_seq_length)}
