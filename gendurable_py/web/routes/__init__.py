"""The pages: a module for each subject, a function for each page, from a `Look` to a `Page`."""
