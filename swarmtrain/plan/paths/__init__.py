"""Routes of a step over a heterogeneous network: execution model, bounds, search, placement (design.md section 7)."""
