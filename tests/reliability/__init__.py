"""Campaigns that try to break FuseHub: each is run by a command and leaves its table in docs/reliability.md."""
