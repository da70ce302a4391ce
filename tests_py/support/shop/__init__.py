"""An app of a Django project, for the tests: a model, machines and tasks."""
