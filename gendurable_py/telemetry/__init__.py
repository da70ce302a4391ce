"""What an engine tells of, and who hears it."""
