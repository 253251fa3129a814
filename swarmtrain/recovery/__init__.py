"""How lost or missing state comes back: from siblings, by verified pieces."""
