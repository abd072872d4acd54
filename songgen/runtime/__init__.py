"""The ground floor: files, locks, processes, signals and status that every other part relies on."""
