"""Pure definitions that every layer shares: standard library and pydantic alone."""
