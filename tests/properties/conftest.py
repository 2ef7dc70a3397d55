"""Properties that hold for whatever input hypothesis makes up, few and always the same ones by default.

python -m pytest tests/properties --hypothesis-profile=thorough     # many, and others with each run
"""

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("few", settings(max_examples=40, derandomize=True, **_COMMON))
settings.register_profile("thorough", settings(max_examples=2000, print_blob=True, **_COMMON))
settings.load_profile("few")  # pytest's option, which is read later, replaces it
