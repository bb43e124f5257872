"""Tries whether a server speaks the Open Inference Protocol, version 2, as it was published.

    python -m setpoint_oip.conformance 127.0.0.1:8001 --model late

The published protocol comes without tests. These know nothing of a server but its address and the
name of a model; `subject` asks it, `checks` hold what must be so, `suite` runs them and reports.
"""
