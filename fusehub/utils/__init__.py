"""What all floors need: progress, processes, devices, folders, and text from outside read safely."""
