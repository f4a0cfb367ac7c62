"""What reads published runs; never imports Beam."""
