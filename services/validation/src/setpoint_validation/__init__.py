"""Validation: may this row, this batch, this table go on?

Suites of rules are versioned by their content. A whole table is judged here and the run is stored; single
requests are judged in the router, by the row rules that this service pushes to it.
"""
