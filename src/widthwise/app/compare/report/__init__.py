"""What a comparison measured, for a reader: page, pictures, tables."""
