"""Parts of the page: each has its addresses, and reads and starts what it shows."""
