"""Model servers: roll a registered version out, test it, or roll it back."""
