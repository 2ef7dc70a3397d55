"""Is the answer accurate, and honest about itself?"""
