"""How the page gets to the browser: which files it will ask for, and how these and the page itself are answered."""
