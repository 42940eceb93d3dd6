"""The damage laboratory: the same damage for xtar and for what people use instead, and what each gets back.

Not part of the installed package. `make damage` runs it; `docs/durability.md` has its results.
"""
