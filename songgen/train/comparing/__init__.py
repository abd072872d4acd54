"""What an adapter changes: losses and songs with and without it, and a page that plays them side by side."""
