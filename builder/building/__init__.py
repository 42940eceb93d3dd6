"""From a folder to an archive: the plan, packing ahead, the one pass that writes."""
