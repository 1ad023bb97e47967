"""Training at scale, by recipes."""
