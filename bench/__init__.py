"""The judge of speed: every number is a ratio to a yardstick measured in the same run. `make bench`, `--help`."""
