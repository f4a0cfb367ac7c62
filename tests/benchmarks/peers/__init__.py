"""The same job as a competent user of each tool would write it; every one is a program of its own."""
