"""Whether an Elastic at full width is the same function as the model that it was made of."""
