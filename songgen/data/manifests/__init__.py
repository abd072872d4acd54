"""Rows of any manifest or song folder, checked: from what a user wrote to a `ClipRow`."""
