"""Whole experiments: the pipeline of a run, comparisons, the theory sweep, benchmarks."""
