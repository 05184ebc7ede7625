"""Networks: what they expect, how they run, how they are trained. Knows no CRS and no cluster."""
