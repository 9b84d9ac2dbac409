"""What is faster on this machine: widths, runtimes, sparse products."""
