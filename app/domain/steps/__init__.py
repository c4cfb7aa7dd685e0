"""What each method takes: one file a method."""
