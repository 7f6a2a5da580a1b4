"""Model servers: roll out a registered version, test it, roll it back if it fails."""
