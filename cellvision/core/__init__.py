"""What a command is made of. Nothing here knows a stage, a plugin or a file format."""
