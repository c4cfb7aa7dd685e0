"""Walls around a process that parses or runs a user's files: see docs/adr/0006-sandbox.md."""
