"""The step protocol as pure state machines: events in, effects out; no torch, no asyncio, no clock (rules R1 to R16)."""
