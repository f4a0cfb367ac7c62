"""What the parts cost alone: nothing that does more can be faster. Every one is a program of its own."""
