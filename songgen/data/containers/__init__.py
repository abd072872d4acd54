"""Containers of audio: what a file declares about its sound, compared with what the file contains."""
