"""Where work units run: the processes of this machine."""
