"""Starting, watching and cancelling jobs, and doing them."""
