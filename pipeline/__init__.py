"""The scoring pipeline: its configuration, its graph, the life of a run and the command line."""
