"""The project's benchmarks: `python -m benchmarks`, from the root of the repository.

One run measures everything that is compared, the contenders in turn, so that the ratios hold even
where the machine's speed drifts. Targets are printed and never asserted.
"""
