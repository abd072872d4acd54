"""The page `songgen ui`: prepare, configure, train and listen in a browser."""
