"""Training: losses for any loop, the loop `fit`, and what can still be gained after a cut."""
