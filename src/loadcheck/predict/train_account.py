"""How the memory of a training is used."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.predict.terms import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAccount:
    """A training's memory at different moments, each a tree of terms that sums.

    Attributes:
        before: torch's allocator, right before the trainer is created.
        check: the same while unsloth looks for tokens without a trained embedding; equal to `before` where it does not.
        first_step, later_step: the same at the peak of the first step, and of a later one.
        device: the card's peak.
        host: the host's pinned memory.
        gaps_bytes: the gaps between torch's blocks in the card's peak; torch releases most of them before it fails.
        short_bytes: what the card lacks even then; 0 where the training runs.
        paged_bytes: optimizer states in CUDA's managed memory, outside torch.
        notes: how certain this is.
    """

    before: Term
    check: Term
    first_step: Term
    later_step: Term
    device: Term
    host: Term
    gaps_bytes: int = 0
    short_bytes: int = 0
    paged_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> Term:
        """The peak of torch's allocator over the whole training."""
        return max(self.check, self.first_step, self.later_step, key=lambda term: term.num_bytes)

    @property
    def limits(self) -> tuple[Term, ...]:
        """What takes most at the peak besides the model itself, largest first."""
        return tuple(part for part in self.peak.parts if part.name != "weights")
