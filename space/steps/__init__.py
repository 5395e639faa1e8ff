"""The steps of the app, one file each."""
