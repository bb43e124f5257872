"""The whole of Setpoint on one machine, without root and without containers.

PostgreSQL and Valkey come from wheels, the services run as child processes, and every
child is tied to the process that started it: however that process ends, `kill -9`
included, nothing is left running.
"""
