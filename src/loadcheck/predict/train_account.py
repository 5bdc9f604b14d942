"""Where the bytes of a training go."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.predict.terms import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAccount:
    """A training's memory by its moments, each a tree of terms that sums.

    Attributes:
        before: of torch's allocator, right before the trainer is made.
        check: the same while the tokens without a trained embedding are looked for; as `before` where none are.
        first_step, later_step: the same at the largest moment of the first step, and of every later one.
        device: the card's peak.
        host: pinned memory of the host.
        gaps_bytes: of the card's peak, what torch keeps between its blocks; it gives back most of it before it gives up.
        short_bytes: what the card lacks even then; 0 where the training runs.
        paged_bytes: optimizer states in CUDA's managed memory, which are not torch's.
        notes: what a reader should know about how sure this is.
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
        """The largest moment of torch's allocator in the whole training."""
        return max(self.check, self.first_step, self.later_step, key=lambda term: term.num_bytes)

    @property
    def limits(self) -> tuple[Term, ...]:
        """What takes most at the peak, besides the model itself, the largest first."""
        return tuple(part for part in self.peak.parts if part.name != "weights")
