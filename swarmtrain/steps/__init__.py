"""The step protocol (R1 to R16) as pure state machines: events in, effects out; no torch, asyncio or clock."""
