"""Ways of compressing a network against each other, at equal stored bytes."""
