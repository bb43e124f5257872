"""What a Feast repository defines, in the terms of Setpoint."""
