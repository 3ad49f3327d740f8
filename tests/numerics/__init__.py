"""How near results are to exact ones, from ordinary data to the ends of the range."""
