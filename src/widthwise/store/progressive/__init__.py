"""Progressive files: many networks in one file, whose first bytes are the smaller ones."""
