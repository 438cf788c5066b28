"""``pefteach new-lesson``: ``make.py`` copies the folder ``template`` and lists the new lesson in the catalogue."""
