"""Programs that measure what the two papers claim, at the scale of the machine they run on.

Every experiment writes a table to docs/results/, one row for each run, and goes on where it was.
"""
