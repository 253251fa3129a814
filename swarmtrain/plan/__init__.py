"""Pure decisions: placement, wiring, paths. No torch, no asyncio, no clock, no randomness of their own."""
