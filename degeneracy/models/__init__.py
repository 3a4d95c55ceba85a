"""Which networks are trained, and which models have a learning coefficient that is known?"""
