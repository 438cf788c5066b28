"""The course as one piece: every notebook ends with links, every link leads somewhere, and titles differ."""

import re
from urllib.parse import unquote

import nbformat
import pytest

from pefteach.lessons.catalogue import LESSONS
from pefteach.paths import COURSE
from pefteach.workshop.build.links import end_of_exercises, end_of_lesson

NOTEBOOKS = [COURSE / f"{folder}{lesson.name}.ipynb" for lesson in LESSONS for folder in ("", "exercises/")]
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def markdown(file):
    return [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("file", [COURSE / "index.ipynb", *NOTEBOOKS], ids=lambda file: file.stem)
def test_every_link_of_the_course_leads_to_a_file_of_the_course(file):
    targets = [link for source in markdown(file) for link in LINK.findall(source) if "://" not in link]
    files = [(file.parent / unquote(target)).resolve() for target in targets]
    assert targets and not [str(found) for found in files if not (found.exists() and found.is_relative_to(COURSE))]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_notebook_ends_with_the_way_on_and_back_and_to_the_index(file):
    *_, end = markdown(file)
    assert end == nbformat.read(file, as_version=4).cells[-1].source
    targets = [(file.parent / target).resolve() for target in LINK.findall(end)]
    place = NOTEBOOKS.index(file)
    on, back = NOTEBOOKS[place + 1 : place + 2], NOTEBOOKS[max(place - 1, 0) : place]
    if file.parent == COURSE:  # the lesson after its exercises too, and back to a lesson rather than to exercises
        on, back = NOTEBOOKS[place + 1 : place + 3], NOTEBOOKS[max(place - 2, 0) : max(place - 1, 0)]
    assert targets == [*on, *back, COURSE / "index.ipynb"]


def test_the_first_and_the_last_lesson_have_one_neighbour_less():
    assert "**Back:**" not in end_of_lesson(LESSONS[0]) and "**On:**" in end_of_lesson(LESSONS[0])
    assert "then" not in end_of_lesson(LESSONS[-1]) and "**On:**" not in end_of_exercises(LESSONS[-1])


def test_titles_differ_and_a_lesson_has_the_one_of_the_catalogue():
    titles = {file: markdown(file)[0].splitlines()[0] for file in [COURSE / "index.ipynb", *NOTEBOOKS]}
    assert len(set(titles.values())) == len(titles)
    for lesson in LESSONS:
        assert titles[COURSE / f"{lesson.name}.ipynb"] == f"# {lesson.number}. {lesson.title}"
        assert titles[COURSE / "exercises" / f"{lesson.name}.ipynb"] == f"# Exercises: {lesson.title}"
    for file, title in titles.items():
        assert f"# {nbformat.read(file, as_version=4).metadata.title}" == title, "what an exported page is called"
