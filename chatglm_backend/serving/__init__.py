"""Many visitors, one engine: the worker thread, the fair queue, tickets, admission and counters.

Sees the engine through a protocol; imports no torch, and knows nothing of HTTP or pages.
"""
