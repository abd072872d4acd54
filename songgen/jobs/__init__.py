"""Jobs: `songgen` commands in processes of their own, each with a folder that has its status and its log.

Nothing here imports torch: a job is watched by a process that takes little memory.
"""
