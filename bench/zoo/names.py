"""Words and bounds that the check, the peer's judge and the page share; imports nothing."""

FAMILIES = ("torchvision", "timm", "transformers", "detection", "nets")

TOLERANCE = 1e-4  # of differences, relative to the largest output

# Of the peer, from what was asked for to the worst.
VERDICTS = (
    "cut as asked",
    "partly",
    "nothing cut, silently",
    "error while building",
    "error while pruning",
    "error in forward",
    "hangs",
    "crashed",
)
