"""From what scenes published to the fused pixels of a map: votes, chunks, the run of a period."""
