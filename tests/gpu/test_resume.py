"""A training of 8B that is killed and resumed on a GPU: the same losses and adapters, and not a byte more of torch's memory."""

import pytest

from tests.gpu import trainings
from tests.gpu.kept import keep_figures
from tests.gpu.test_gpu_load import has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.gpu.trainings import Training

PEAK = "train_peak_allocated_bytes"

pytestmark = trainings.MARKS


@pytest.fixture(scope="module")
def both(whole: Training, resumed: Training) -> tuple[Training, Training]:
    """Both trainings; their figures are kept whether or not the tests pass."""
    named = {"whole": whole, "resumed": resumed}
    keep_figures(
        "resume", {name: {"bytes": each.output["bytes"], "failures": each.failures} for name, each in named.items()}
    )
    return whole, resumed


def test_both_pass(both: tuple[Training, Training]):
    """Each has a passing verdict."""
    assert [(each.exit_code, each.failures) for each in both] == [(0, []), (0, [])]


def test_it_goes_on_to_the_same_bits(both: tuple[Training, Training]):
    """Every loss and the adapters' file are equal."""
    losses = [[(step.step, step.loss, step.learning_rate) for step in each.steps] for each in both]
    assert losses[0] == losses[1]
    files = [(each.folder / "adapter" / "adapter_model.safetensors").read_bytes() for each in both]
    assert files[0] == files[1]


def test_it_takes_no_byte_more(both: tuple[Training, Training]):
    """Not in a step after the checkpoint, nor in the training's peak: the 8-bit states share their two maps again (stacks/monitored_trainer.py: share_quantization_maps)."""
    whole, resumed = both
    more = {
        f"step {mine.step}": (mine.peak_allocated_bytes or 0) - (theirs.peak_allocated_bytes or 0)
        for mine, theirs in zip(resumed.steps, whole.steps, strict=True)
        if mine.step > trainings.CHECKPOINT and theirs.peak_allocated_bytes
    }
    assert more
    more[PEAK] = resumed.output["bytes"][PEAK] - whole.output["bytes"][PEAK]
    assert {name: num_bytes for name, num_bytes in more.items() if num_bytes > 0} == {}
