"""Variants: widths, zeros and bits together, applied to a network and searched for."""

from widthwise.variants.apply import Applied, apply, variant_of
from widthwise.variants.search import Candidates, Found, Tried, search

__all__ = ["Applied", "Candidates", "Found", "Tried", "apply", "search", "variant_of"]
