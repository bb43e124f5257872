"""Between the contract's messages and the router's own words."""
