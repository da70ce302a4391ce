"""The neighbours, measured on the same server in the same run: python -m bench.peers, see docs/comparison.md."""
