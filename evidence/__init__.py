"""Programs that measure the claims of the two papers, at the scale of the machine they run on.

Every experiment writes a table to docs/results/, one row for each run, and resumes there.
"""
