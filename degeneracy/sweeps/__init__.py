"""How are many runs of one config done, here or on a Ray cluster, and gathered into one table?"""
