"""The engine: from a module to a graph, its axes and their proof, and back to a smaller module."""
