"""Maps of many scenes: votes of published scenes, fused on one grid."""
