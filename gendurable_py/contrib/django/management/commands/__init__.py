"""`gendurable`: the command line with the databases of the project."""
