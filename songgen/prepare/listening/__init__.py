"""Networks and signal processing that listen to recordings."""
