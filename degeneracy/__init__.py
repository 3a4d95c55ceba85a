"""Training, local learning coefficients and curvature: the library that every study is built on."""
