"""Songs into data on the page: the form of `songgen prepare`, its labels, its steps as they run, its rows."""
