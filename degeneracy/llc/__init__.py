"""How degenerate is a solution? Local learning coefficients by Langevin dynamics."""
