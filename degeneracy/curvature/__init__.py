"""How curved is the loss? Trace, spectrum and largest eigenvalues of the Hessian, Fisher
information.
"""
