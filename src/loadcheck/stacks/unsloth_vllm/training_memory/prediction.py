"""The predicted memory peak of a training: of torch's allocator to the byte, of the card and of the host."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.errors import BadInput, Problem
from loadcheck.predict import Case, Prediction
from loadcheck.predict.terms import Term, total
from loadcheck.specs.architecture import ARCHITECTURES
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.outside_budget import HF_ROPE_TOKENS
from loadcheck.stacks.unsloth_vllm.training_memory.attention import NUM_SMS_ASSUMED, num_sms
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import INDEX, Tape
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label, Ledger
from loadcheck.stacks.unsloth_vllm.training_memory.loaded import loaded_model, positions, rope_tables
from loadcheck.stacks.unsloth_vllm.training_memory.model import Trainee, build
from loadcheck.stacks.unsloth_vllm.training_memory.steps import Steps

SYNTHETIC_TOKENS = 259
"""Nonzero rows of a synthetic embedding (weights/small_files.py: NUM_TOKENS)."""
UNTRAINED = Label(
    "lm_head's rows of untrained tokens", "unsloth_zoo/tokenizer_utils.py:225-233, called by SFTTrainer.train"
)


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """What torch's allocator holds during a training, each a tree of terms that sums.

    Attributes:
        loaded: the model, and vLLM where it is used: what does not change.
        before: right before the trainer is created.
        check: while unsloth looks for untrained tokens, before the first step; equal to `before` where it does not.
        first_step: the peak of the first optimizer step.
        later_step: the peak of a later step, which has the optimizer's states from its start.
        paged_bytes: optimizer states in CUDA's managed memory, outside torch.
        ledger: every event, for what depends on their order.
        started_at: the index of the first event of the first step.
    """

    loaded: Term
    before: Term
    check: Term
    first_step: Term
    later_step: Term
    paged_bytes: int
    ledger: Ledger
    started_at: int


def train_memory(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainMemory:
    """Simulate a training of the case's adapters; `engine` is the load's prediction where vLLM is on the card.

    BadInput for an architecture whose training was never traced.
    """
    check_traced(case.config)
    capability = case.gpu.compute_capability
    loaded = loaded_model(case.config, case.profile, engine, capability)
    ledger = Ledger()
    trainee = _trainee(case, Tape(ledger))
    num_seqs = None if engine is None else engine.figures.max_num_seqs
    steps = Steps(trainee, settings, capability, num_seqs)
    ledger.start_phase("before training", reset_peak=True)
    before = check = ledger.now()
    if settings.method == "sft" and case.profile.weights == "synthetic":
        check = _untrained_check(ledger, case.config)
    started_at = len(ledger.events)
    first = steps.step()
    later = steps.step()
    before, check, first, later = (_with_model(loaded, memory) for memory in (before, check, first, later))
    return TrainMemory(loaded, before, check, first, later, steps.paged_bytes, ledger, started_at)


def check_traced(config: ModelConfig) -> None:
    """BadInput for an architecture whose training was never traced: its figures would be guesses."""
    if config.architecture.trained:
        return
    known = ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.trained)
    what = f"the training of a {config.model_type} model is not modelled"
    raise BadInput(Problem("model", what, f"predict the load alone; modelled: {known}"))


def _with_model(loaded: Term, moment: Term) -> Term:
    """A moment of the training, with the loaded model added to its weights."""
    kinds = {part.name: part for part in moment.parts}
    own = kinds.pop("weights", None)
    model = total("weights", [*loaded.parts, *(own.parts if own else ())])
    parts = sorted([model, *kinds.values()], key=lambda term: -term.num_bytes)
    return total(moment.name, parts)


def _trainee(case: Case, tape: Tape) -> Trainee:
    config, profile, card = case.config, case.profile, case.gpu
    adapters, tokens = profile.adapters, positions(config, profile)
    assert adapters is not None
    return build(
        config,
        tape,
        first_rope_bytes=rope_tables(config, min(HF_ROPE_TOKENS, tokens)),  # until the first forward pass extends them
        rope_bytes=rope_tables(config, tokens),
        r=adapters.r,
        targets=adapters.target_modules,
        dropout=adapters.lora_dropout,
        checkpointing=adapters.use_gradient_checkpointing,
        num_sms=num_sms(card.name) or NUM_SMS_ASSUMED,
        compute_capability=card.compute_capability,
    )


def _untrained_check(ledger: Ledger, config: ModelConfig) -> Term:
    """fix_untrained_tokens copies lm_head's rows of all tokens whose embedding is zero (tokenizer_utils.py:225-233)."""
    ledger.start_phase("check for untrained tokens", reset_peak=True)
    untrained = max(config.vocab_size - SYNTHETIC_TOKENS, 0)
    sizes = (config.vocab_size, config.vocab_size, INDEX * untrained, 2 * untrained * config.hidden_size)
    held = [ledger.allocate(size, UNTRAINED) for size in sizes]
    check = ledger.peak()
    del held
    return check
