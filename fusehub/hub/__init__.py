"""The Hub: its client, what waits for it, names of repos, hashes of files, licenses, and commits."""
