"""The lesson that ``pefteach new-lesson`` copies."""
