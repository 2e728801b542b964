"""The base of every phase: processes, errors, console, configuration, files, dist/."""
