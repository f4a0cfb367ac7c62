"""The parts of the scoring pipeline: nouns are pure functions and types, verbs are Beam PTransforms."""
