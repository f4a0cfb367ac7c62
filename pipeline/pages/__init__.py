"""The kit of the pages that people read: shell, charts, pictures. It never imports Beam."""
