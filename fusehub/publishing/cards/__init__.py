"""The cards that FuseHub writes."""
