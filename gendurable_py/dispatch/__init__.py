"""The dispatcher: from a claimed row to its committed outcome, and all that it takes to keep doing that."""
