"""What runs in other processes than the one that answers the browser."""
