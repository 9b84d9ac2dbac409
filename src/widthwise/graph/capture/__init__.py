"""From a module to a graph of operators, and the checks that the graph is the module."""
