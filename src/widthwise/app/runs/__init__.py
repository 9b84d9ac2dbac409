"""A run folder and what the commands do to it: functions that neither parse nor print."""
