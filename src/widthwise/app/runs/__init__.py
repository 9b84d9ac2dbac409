"""A run folder, and everything that the commands do to it: functions that neither parse nor print."""
