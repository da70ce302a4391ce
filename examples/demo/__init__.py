"""Orders through a checkout machine, two worker processes, one of them killed in the middle: `make demo`."""
