"""What answers requests: accounts, repositories, files, lists, and pages for people."""
