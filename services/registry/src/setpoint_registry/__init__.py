"""The registry: what a model version is made of, and who let it live.

A version is an immutable manifest around an artifact that is stored under its digest. Aliases and
approvals are only ever added to, so "what was champion at that time, and who approved it" stays
answerable. No artifact that could execute code gets in.
"""
