"""How training draws widths: structural dropout, the sandwich, and the levels of a family."""
