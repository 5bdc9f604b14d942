"""torch's allocator with expandable segments: whole pages, gaps, and what it releases before it gives up."""

from loadcheck.stacks.monitored_trainer import MonitoredTrainer, share_quantization_maps
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Event, Label
from loadcheck.stacks.unsloth_vllm.training_memory.reserve import LARGE_PAGE_BYTES, Reserved, reserve
from loadcheck.units import MIB

LABEL = Label("a tensor", "somewhere.py:1")


def events(*sizes: tuple[int, int]) -> list[Event]:
    """Pairs of a block's number and its MiB; negative when it is freed."""
    return [Event(number, size * MIB, LABEL) for number, size in sizes]


def test_memory_is_allocated_in_whole_pages():
    """41 MiB take three pages of 20."""
    assert reserve([], events((0, 41)), 0) == Reserved(0, 3 * LARGE_PAGE_BYTES)


def test_the_pages_of_a_gap_are_released_if_needed():
    """60 MiB do not fit a free gap of 40 MiB before a used block. On a card of 100 MiB the gap's pages are released for them."""
    found = events((0, 40), (1, 40), (0, -40), (2, 60))
    assert reserve([], found, 0).steps_bytes == 140 * MIB
    assert reserve([], found, 0, 100 * MIB) == Reserved(0, 100 * MIB)


def test_the_shortfall_is_in_bytes():
    """99 MiB do not hold five pages: 1 MiB is short."""
    found = events((0, 40), (1, 40), (0, -40), (2, 60))
    assert reserve([], found, 0, 99 * MIB).short_bytes == MIB


def test_a_partly_used_page_is_not_released():
    """Of 30 freed MiB beside 30 used ones, one of the three pages is shared, so 40 MiB stay, not 30."""
    found = events((0, 30), (1, 30), (0, -30), (2, 40))
    assert reserve([], found, 0, 80 * MIB).short_bytes == 0
    assert reserve([], found, 0, 79 * MIB).short_bytes > 0


def test_the_loaded_model_counts():
    """The loaded model counts towards the memory in use."""
    assert reserve([100 * MIB], events((0, 40)), 0, 80 * MIB).short_bytes == 20 * MIB


def test_a_checkpoints_adapters_are_read_on_the_host():
    """peft would read the adapters onto the card beside the existing ones."""
    calls: list[tuple[str, str, dict[str, object]]] = []

    class Model:
        active_adapters = ("default",)

        def load_adapter(self, path: str, name: str, **named: object) -> None:
            calls.append((path, name, named))

    trainer = type("Trainer", (MonitoredTrainer,), {"model": Model()})()
    trainer._load_from_checkpoint("checkpoint-5")
    assert calls == [("checkpoint-5", "default", {"is_trainable": True, "torch_device": "cpu"})]


def test_a_checkpoints_states_share_their_maps():
    """As when they were created, the optimizer's states share their quantization maps; a checkpoint has two per trained tensor."""
    states = [{"step": 1, "qmap1": object(), "qmap2": object(), "state1": object()} for _ in range(3)] + [{"step": 1}]
    share_quantization_maps(states)
    assert {id(state["qmap1"]) for state in states[:3]} == {id(states[0]["qmap1"])}
    assert {id(state["qmap2"]) for state in states[:3]} == {id(states[0]["qmap2"])} != {id(states[0]["qmap1"])}
    assert len({id(state["state1"]) for state in states[:3]}) == 3
