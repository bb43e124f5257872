"""Other services, and what the machine offers, behind the router's ports."""
