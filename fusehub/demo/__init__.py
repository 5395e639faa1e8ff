"""The whole way on this machine alone, on real models and real text."""
