"""Pure functions from numbers to pictures: ``draw_…(figure, numbers)``. Lessons and explorers both call them."""
