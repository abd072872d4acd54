"""Folders on the page: what is in the workspace, facts of one folder, and the trash."""
