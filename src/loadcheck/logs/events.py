"""Every event that our engines print, one record each. To add one, write it here and name it in `AnyEvent`.

logs/event.py says which fields are written and which are left out. A field with the name of a figure (figures.py) is read as that figure,
to the byte.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, get_args

from msgspec import UNSET, Meta, UnsetType

from loadcheck.logs.event import Bytes, Capability, Count, Event, Number, Seconds, Versions, name_of


class OnDevice(Event, frozen=True, kw_only=True):
    """The card's memory at that moment (stacks/unsloth_vllm/device.py: memory_now).

    Attributes:
        used_bytes: in use on the card, by any process.
        allocated_bytes, reserved_bytes: of torch's allocator.
        peak_allocated_bytes, peak_reserved_bytes: the most so far, since the engine's profile run.
    """

    last: ClassVar[tuple[str, ...]] = (
        "used_bytes", "allocated_bytes", "reserved_bytes", "peak_allocated_bytes", "peak_reserved_bytes"
    )  # fmt: skip
    used_bytes: Bytes | None = None
    allocated_bytes: Bytes | None = None
    reserved_bytes: Bytes | None = None
    peak_allocated_bytes: Bytes | None = None
    peak_reserved_bytes: Bytes | None = None


# ------------------------------------------------------------------------------------------------------------- before a load


class WeightsReady(Event, frozen=True, kw_only=True, tag="weights_ready"):
    """The weights are in a local directory; the only event of the step `prepare` (engines/child.py).

    Attributes:
        source: hub, package, synthetic or local, as the profile says.
        directory: the last component of its path.
        cached: whether nothing had to be made or downloaded.
    """

    source: str | None = None
    directory: str | None = None
    disk_bytes: Bytes | None = None
    prepare_s: Seconds | None = None
    cached: bool | None = None


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """What is to be loaded, and by which packages: the first event of a load on the CPU (stacks/transformers_cpu/engine.py: record_start)."""

    model: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_model_len: Count | None = None
    torch: str | None = None
    transformers: str | None = None
    versions: Versions | None = None
    python: str | None = None
    cpu_threads: Count | None = None
    ram_available_bytes: Bytes | None = None


class Imported(Event, frozen=True, kw_only=True, tag="imported"):
    """The libraries are imported: the first event of a load on a GPU (stacks/unsloth_vllm/engine.py, stacks/plain_vllm/engine.py)."""

    import_s: Seconds | None = None
    versions: Versions | None = None
    cuda: str | None = None


class Device(Event, frozen=True, kw_only=True, tag="device"):
    """The card with a CUDA context and nothing loaded, from which figures are predicted (stacks/unsloth_vllm/device.py: record_device).

    Attributes:
        kernel: the release of the host's kernel, which tells WSL2; logs until d2e35e0 lack it.
    """

    gpu_name: str | None = None
    compute_capability: Capability | None = None
    device_total_bytes: Bytes | None = None
    device_free_bytes: Bytes | None = None
    ram_available_bytes: Bytes | None = None
    driver: str | None = None
    kernel: str | None = None


# ------------------------------------------------------------------------------------------------------------------- a load


class RamFound(Event, frozen=True, kw_only=True, tag="ram"):
    """The RAM that unsloth finds when it decides on the swap space (stacks/unsloth_vllm/device.py: record_ram)."""

    ram_available_bytes: Bytes | None = None


class WeightsLoaded(Event, frozen=True, kw_only=True, tag="weights"):
    """The model is in host memory (stacks/transformers_cpu/engine.py: load).

    Attributes:
        by_kind: the bytes of all its tensors, by kind (memory.py: held_bytes).
    """

    weights_bytes: Bytes | None = None
    weights_load_s: Seconds | None = None
    num_parameters: Count | None = None
    by_kind: Annotated[dict[str, Bytes], Meta(description="bytes by kind")] | None = None


class Loaded(OnDevice, frozen=True, kw_only=True, tag="loaded"):
    """The model is on the card, the engine has started (stacks/unsloth_vllm/engine.py: load, stacks/plain_vllm/engine.py)."""

    load_s: Seconds | None = None


class Attached(OnDevice, frozen=True, kw_only=True, tag="adapters"):
    """The adapters are attached (attach, in the engines).

    Attributes:
        patched_layers, patched_qkv, patched_o, patched_mlp: on the CPU, the counts that unsloth would print; on a GPU it prints them itself.
        adapter_dtype: the types of all their weights, each once.
        adapter_sha256: of the bytes of all their weights.
    """

    attach_s: Seconds | None = None
    trainable_params: Count | None = None
    total_params: Count | None = None
    adapter_bytes: Bytes | None = None
    patched_layers: Count | None = None
    patched_qkv: Count | None = None
    patched_o: Count | None = None
    patched_mlp: Count | None = None
    adapter_dtype: str | None = None
    adapter_sha256: str | None = None


class Slots(Event, frozen=True, kw_only=True, tag="slots"):
    """The buffers that wait for an adapter in vLLM's layers (stacks/unsloth_vllm/vllm_model.py: lora_slots_bytes)."""

    lora_slots_bytes: Bytes | None = None


class Answer(OnDevice, frozen=True, kw_only=True):
    """One answer of the loaded model, by greedy decoding (stacks/unsloth_vllm/session.py: answer, and the other engines).

    Attributes:
        token_ids_sha256: of the answer's tokens.
        first_token_unix_s: the time of its first token; None if the engine does not report it.
        adapter_enabled: whether the engine reports that it used the adapters.
        expected: the word that it had to contain; None for weights that know no answer.
        found: whether it contains that word.
    """

    prompt: str | None = None
    text: str | None = None
    num_prompt_tokens: Count | None = None
    num_new_tokens: Count | None = None
    token_ids_sha256: str | None = None
    generate_s: Seconds | None = None
    first_token_unix_s: Seconds | None | UnsetType = UNSET  # the CPU's engine does not write it; a GPU's may write null
    adapter_enabled: bool | None = None
    expected: str | None
    found: bool | None


class Answered(Answer, frozen=True, kw_only=True, tag="answer"):
    """The answer of the model as loaded."""


class AnsweredAfterTraining(Answer, frozen=True, kw_only=True, tag="answer_after_training"):
    """The answer with the adapters trained, saved and read back."""


class Stepped(Event, frozen=True, kw_only=True, tag="step"):
    """One training step of a load (training.steps of its profile), counted from 0; the loss is None if it is not finite."""

    step: Count | None = None
    loss: Number | None


class Trained(OnDevice, frozen=True, kw_only=True, tag="trained"):
    """The result of a load's training steps (stacks/unsloth_vllm/session.py: train, stacks/transformers_cpu/engine.py).

    Attributes:
        steps: how many were taken; only the CPU's engine writes it.
        first_loss, last_loss: None if not finite.
        adapter_changed, base_unchanged: by the hashes of their weights before and after.
    """

    steps: Count | None = None
    train_s: Seconds | None = None
    first_loss: Number | None
    last_loss: Number | None
    adapter_changed: bool | None = None
    base_unchanged: bool | None = None


class SavedAdapter(Event, frozen=True, kw_only=True, tag="saved_adapter"):
    """The saved adapters compared with those in memory (stacks/unsloth_vllm/session.py: compare_saved).

    Attributes:
        same_weights: whether they are equal to the byte; the first logs with this event lack it.
        num_same_tokens: how many of num_new_tokens the two answers share at their beginning.
        same_answer: whether they share all; only in the first logs.
    """

    same_weights: bool | None = None
    num_same_tokens: Count | None = None
    num_new_tokens: Count | None = None
    same_answer: bool | None = None


class Peak(OnDevice, frozen=True, kw_only=True, tag="peak"):
    """The most memory that the load had in use: on the card, or of the process on the CPU, which also writes what it uses now."""

    peak_device_bytes: Bytes | None = None
    rss_now_bytes: Bytes | None = None


class Done(Event, frozen=True, kw_only=True, tag="done"):
    """The engine has finished; the last event of every load and training."""


# --------------------------------------------------------------------------------------------------------------- a training


class Rows(Event, frozen=True, kw_only=True):
    """The rows of a training, counted in tokens (stacks/rows.py: summary; if packed, stacks/packing.py: PackedRows).

    Attributes:
        num_label_tokens: the tokens that are learned.
        num_cut_rows, num_ended_rows: rows that were truncated, and rows whose last label ends an answer.
        labels: which tokens are learned (stacks/rows.py: Learned).
        tokens_sha256: of all ids and labels.
        num_packed_rows: the rows that the data's rows are packed into; tokens, labels and lengths then count these.
        num_split_rows: the data's rows that continue in the next packed row.
        num_unended_rows: the data's rows whose end is not learned because of packing.
        num_left_out_tokens: the tokens in no packed row.
    """

    num_rows: Count | None = None
    num_tokens: Count | None = None
    num_label_tokens: Count | None = None
    num_shortest_tokens: Count | None = None
    num_longest_tokens: Count | None = None
    num_cut_rows: Count | None = None
    num_ended_rows: Count | None = None
    labels: str | None = None
    tokens_sha256: str | None = None
    num_packed_rows: Count | None = None
    num_split_rows: Count | None = None
    num_left_out_tokens: Count | None = None
    num_unended_rows: Count | None = None


class TrainData(Rows, frozen=True, kw_only=True, tag="train_data"):
    """The rows as the model's own tokenizer gives them, before anything is loaded (engines/training.py: count_rows)."""


class TrainRows(Rows, frozen=True, kw_only=True, tag="train_rows"):
    """The rows as the trainer's tokenizer gives them, once the adapters are attached (stacks/*/training.py: run)."""


class TrainBegin(Event, frozen=True, kw_only=True, tag="train_begin"):
    """The first step is about to be taken (stacks/step_monitor.py: StepMonitor.begin_training).

    Attributes:
        train_before_*: before the trainer was made; peaks are counted from there.
        train_peak_allocated_bytes, train_reserved_bytes, train_host_bytes: torch's peaks so far, and what the process uses.
        train_device_used_bytes: the most in use on the card.
    """

    num_steps: Count | None = None
    train_before_peak_allocated_bytes: Bytes | None = None
    train_before_reserved_bytes: Bytes | None = None
    train_before_device_used_bytes: Bytes | None = None
    train_before_host_bytes: Bytes | None = None
    train_peak_allocated_bytes: Bytes | None = None
    train_reserved_bytes: Bytes | None = None
    train_device_used_bytes: Bytes | None = None
    train_host_bytes: Bytes | None = None


class TrainStep(Event, frozen=True, kw_only=True, tag="train_step"):
    """One step of a training, counted from 1, for progress: one of at most MAX_STEP_EVENTS (stacks/step_monitor.py); every step is in steps.jsonl.

    Attributes:
        loss: of all its batches; None if not finite.
        reward: the mean of GRPO's rewards.
    """

    step: Count | None = None
    loss: Number | None
    step_s: Seconds | None = None
    num_tokens: Count | None = None
    train_peak_allocated_bytes: Bytes | None = None
    train_device_used_bytes: Bytes | None = None
    train_host_bytes: Bytes | None = None
    reward: Number | None = None


class TrainDone(Event, frozen=True, kw_only=True, tag="train_done"):
    """The last step is taken and the adapters are saved (stacks/trainer.py: run_trainer).

    Attributes:
        num_steps, num_planned_steps: the steps in steps.jsonl, and those that the trainer planned.
        saved_adapter_same: whether the adapters on the disk are those in memory.
        num_ends_looked_at, num_ends_learned: answers whose end was tested, and those that the model ends; not for random weights.
    """

    num_steps: Count | None = None
    num_planned_steps: Count | None = None
    train_s: Seconds | None = None
    first_loss: Number | None
    last_loss: Number | None
    adapter_changed: bool | None = None
    base_unchanged: bool | None = None
    saved_adapter_same: bool | None = None
    num_ends_looked_at: Count | None = None
    num_ends_learned: Count | None = None


class TrainPeak(Event, frozen=True, kw_only=True, tag="train_peak"):
    """The peak resident set of the process, pinned memory included, and the card's memory at the end (stacks/*/training.py: run)."""

    train_peak_host_bytes: Bytes | None = None
    train_used_bytes: Bytes | None = None
    train_allocated_bytes: Bytes | None = None
    train_reserved_bytes: Bytes | None = None
    train_peak_allocated_bytes: Bytes | None = None
    train_peak_reserved_bytes: Bytes | None = None


class Probe(Event, frozen=True, kw_only=True, tag="probe"):
    """Whether the reference logits that an export is checked against were kept (stacks/probe.py), and why not."""

    kept: bool | None = None
    why: str | None = None


AnyEvent = (
    WeightsReady | Started | Imported | Device
    | RamFound | WeightsLoaded | Loaded | Attached | Slots | Answered | Stepped | Trained | AnsweredAfterTraining | SavedAdapter | Peak | Done
    | TrainData | TrainRows | TrainBegin | TrainStep | TrainDone | TrainPeak | Probe
)  # fmt: skip
"""Any event, told apart by the field `event`. Events that only their own stack reads are in its dialect (logs/dialect.py)."""
KINDS: dict[str, type[Event]] = {name_of(kind): kind for kind in get_args(AnyEvent)}
