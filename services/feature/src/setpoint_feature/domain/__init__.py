"""The rules of features: definitions, keys, packing, visibility, joins. Pure functions over arrays."""
