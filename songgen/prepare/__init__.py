"""From a folder of songs to a data set worth training on: `songgen prepare`."""
