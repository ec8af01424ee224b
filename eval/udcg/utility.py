"""The utility of one passage to one reader.

From Trappolini et al., "Redefining Retrieval Evaluation in the Era of LLMs" (arXiv 2510.21440):
``p_abs`` is the probability that the reader declines to answer when the passage is all it has, and
``1 − p_abs`` how much the passage makes it answer. That is a gain where the passage is relevant
(u⁺) and a loss where it is not (u⁻, the distracting effect):

    relevant      u⁺ = 1 − p_abs    u⁻ = 0
    irrelevant    u⁺ = 0            u⁻ = −(1 − p_abs)
"""

from __future__ import annotations

from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class PassageUtility:
    """What is known of a passage: the reader's p_abs in [0, 1], and whether it is relevant.

    Either may be missing (None); such a passage has no utility, and is counted as missing.
    Raises InvalidInputError for a p_abs outside [0, 1].
    """

    p_abs: float | None
    relevant: bool | None

    def __post_init__(self) -> None:
        if self.p_abs is not None and not 0 <= self.p_abs <= 1:
            raise InvalidInputError(f"p_abs must be a probability in [0, 1], got {self.p_abs}")

    @property
    def missing(self) -> bool:
        """Whether p_abs or the relevance is not known."""
        return self.p_abs is None or self.relevant is None

    @property
    def gain(self) -> float:
        """u⁺, in [0, 1]; 0 where something is missing."""
        return 0.0 if self.p_abs is None or not self.relevant else 1 - self.p_abs

    @property
    def loss(self) -> float:
        """u⁻, in [−1, 0]; 0 where something is missing."""
        return -(1 - self.p_abs) if self.p_abs is not None and self.relevant is False else 0.0
