"""Machines: what a class or a job declares, what a step sees and gives back, and how it is written as JSON."""
