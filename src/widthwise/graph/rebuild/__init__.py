"""The user's own class at a smaller size: what to set in it, and whether it computes the same."""
