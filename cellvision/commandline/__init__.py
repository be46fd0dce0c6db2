"""What a person types: flags made from configs, their help, and exit codes."""
