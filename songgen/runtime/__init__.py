"""Infrastructure that every other package uses: files, locks, processes, signals and status."""
