"""The feature service: one rule for what was known about an entity at a time, online and offline.

History in PostgreSQL is the truth, and Valkey holds the greatest row of each entity for serving. Both
paths decode the same packed bytes with the same code and judge visibility and age by the same
functions, so training and serving cannot drift apart.
"""
