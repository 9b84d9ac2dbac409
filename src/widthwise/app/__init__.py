"""The application, one user of the library: command line, runs, tasks, comparison, pages."""
