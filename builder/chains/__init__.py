"""Archives that need others: merge and prune, packed data going over as it is."""
