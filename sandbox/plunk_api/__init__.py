"""The stand-in for the Plunk API: keeps its contract, can be told to fail, and counts what was really sent."""
