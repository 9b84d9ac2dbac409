"""Callbacks for other libraries' trainers; each file imports its library."""
