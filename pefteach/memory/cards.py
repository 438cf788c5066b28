"""The graphics cards that people own or rent, by their memory."""

from __future__ import annotations

GB = 10**9  # bytes, as on a card's box
CARDS = (8, 12, 16, 24, 48, 80)  # GB


def fitting_cards(size: int) -> dict[int, bool]:
    """Whether each card holds ``size`` bytes, by the card's GB."""
    return {card: size <= card * GB for card in CARDS}


def smallest_card(size: int) -> int | None:
    """The GB of the smallest card that holds ``size`` bytes; None if no card does."""
    return next((card for card, holds in fitting_cards(size).items() if holds), None)
