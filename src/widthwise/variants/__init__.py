"""Variants: widths, zeros and bits together, applied to a network and searched for."""

from widthwise.variants.apply import CompressedModel, apply, variant_of
from widthwise.variants.search import Candidates, MeasuredVariant, SearchResult, search

__all__ = [
    "Candidates",
    "CompressedModel",
    "MeasuredVariant",
    "SearchResult",
    "apply",
    "search",
    "variant_of",
]
