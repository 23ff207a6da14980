"""Holds the compiled kernels to what the project promises of them, on a machine without a GPU."""
