"""The migrations of the app: one for each release, see `..installing`."""
