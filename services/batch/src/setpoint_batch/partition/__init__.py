"""What is done to files and rows, in worker processes that know no service of this program.

A task is a JSON object with its `kind`; `tasks.run` does it and returns another. Everything a task
needs is in it, so that it can be done on any machine that reaches the files and the services.
"""
