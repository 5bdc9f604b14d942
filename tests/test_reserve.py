"""torch's allocator with expandable segments: whole pages, gaps, and what it gives back before it gives up."""

from loadcheck.stacks.trainer import MonitoredTrainer, share_quantization_maps
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Event, Label
from loadcheck.stacks.unsloth_vllm.training_memory.reserve import LARGE_PAGE_BYTES, Reserved, reserve
from loadcheck.units import MIB

LABEL = Label("a tensor", "somewhere.py:1")


def events(*sizes: tuple[int, int]) -> list[Event]:
    """Of each pair the number of a block, and its MiB; below 0 where it is freed."""
    return [Event(number, size * MIB, LABEL) for number, size in sizes]


def test_memory_is_taken_by_whole_pages():
    """41 MiB take three pages of 20."""
    assert reserve([], events((0, 41)), 0) == Reserved(0, 3 * LARGE_PAGE_BYTES)


def test_a_gap_of_whole_pages_is_given_back_where_the_card_has_no_more():
    """A free block of 40 MiB lies before one in use; 60 MiB do not fit into it, and are found where 100 MiB are all there is."""
    found = events((0, 40), (1, 40), (0, -40), (2, 60))
    assert reserve([], found, 0).steps_bytes == 140 * MIB
    assert reserve([], found, 0, 100 * MIB) == Reserved(0, 100 * MIB)


def test_what_is_lacking_is_said_in_bytes():
    """99 MiB hold no five pages: one is lacking by 1 MiB."""
    found = events((0, 40), (1, 40), (0, -40), (2, 60))
    assert reserve([], found, 0, 99 * MIB).short_bytes == MIB


def test_a_page_that_is_partly_in_use_is_not_given_back():
    """Of 30 freed MiB beside 30 in use one page of the three is shared, so 40 MiB stay, and not 30."""
    found = events((0, 30), (1, 30), (0, -30), (2, 40))
    assert reserve([], found, 0, 80 * MIB).short_bytes == 0
    assert reserve([], found, 0, 79 * MIB).short_bytes > 0


def test_a_model_that_does_not_fit_is_out_of_memory_before_it_trains():
    """What is loaded counts as much."""
    assert reserve([100 * MIB], events((0, 40)), 0, 80 * MIB).short_bytes == 20 * MIB


def test_the_adapters_of_a_checkpoint_are_read_by_way_of_the_host():
    """peft would read them onto the card beside those that are there."""
    calls: list[tuple[str, str, dict[str, object]]] = []

    class Model:
        active_adapters = ("default",)

        def load_adapter(self, path: str, name: str, **named: object) -> None:
            calls.append((path, name, named))

    trainer = type("Trainer", (MonitoredTrainer,), {"model": Model()})()
    trainer._load_from_checkpoint("checkpoint-5")
    assert calls == [("checkpoint-5", "default", {"is_trainable": True, "torch_device": "cpu"})]


def test_the_states_of_a_checkpoint_share_their_maps_again():
    """As they did when they were made: a checkpoint has two for each trained tensor."""
    states = [{"step": 1, "qmap1": object(), "qmap2": object(), "state1": object()} for _ in range(3)] + [{"step": 1}]
    share_quantization_maps(states)
    assert {id(state["qmap1"]) for state in states[:3]} == {id(states[0]["qmap1"])}
    assert {id(state["qmap2"]) for state in states[:3]} == {id(states[0]["qmap2"])} != {id(states[0]["qmap1"])}
    assert len({id(state["state1"]) for state in states[:3]}) == 3
