"""How each method makes a network for a budget."""
