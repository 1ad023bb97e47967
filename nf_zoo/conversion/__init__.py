"""Networks of any origin, rebuilt without normalization by the batch."""
