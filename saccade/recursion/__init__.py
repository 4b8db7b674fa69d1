"""Recursive reasoning: H/L cycles, halting, and the scheduler that turns saved steps into saved time."""
