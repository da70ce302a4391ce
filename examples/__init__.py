"""Examples that run: each module says what it shows; tests_py/test_examples.py runs them all."""
