"""Statistics of a prepared data set and the page that shows them."""
