"""What is asked before a night."""
