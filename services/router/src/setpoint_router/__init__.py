"""The front door of the data plane.

A request is assigned to a model version by its slot, gets its features, is checked, runs in
inference, and is recorded on disk before it is answered. Requests that are in flight at the same
moment share every call behind the router; none of them waits for the others or suffers with them.
"""
