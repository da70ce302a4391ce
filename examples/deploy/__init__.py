"""What docs/deployment.md tells of: files to copy, and a worker whose password is a token."""
