"""Arrays of other libraries: results as for NumPy's, in their own arrays, without a copy."""
