"""The benchmark: the same work for xtar and for what people use instead, side by side in one run.

Not part of the installed package. `make bench` runs it; `docs/performance.md` has its results.
"""
