"""The last cell of every notebook: where to go on, and the way back."""

from __future__ import annotations

from pefteach.lessons.catalogue import LESSONS, Lesson

INDEX = "index.ipynb"


def lesson_title(lesson: Lesson) -> str:
    return f"{lesson.number}. {lesson.title}"


def exercises_title(lesson: Lesson) -> str:
    return f"Exercises: {lesson.title}"


def lesson_link(lesson: Lesson, course: str = "") -> str:
    """A link to a lesson; ``course`` leads from the linking notebook's folder to the course's ("../")."""
    return f"[{lesson_title(lesson)}]({course}{lesson.name}.ipynb)"


def exercises_link(lesson: Lesson) -> str:
    return f"[{exercises_title(lesson)}](exercises/{lesson.name}.ipynb)"


def end_of_lesson(lesson: Lesson) -> str:
    """Markdown: on to the exercises and the next lesson, back to the lesson before, and the index."""
    before, after = _neighbours(lesson)
    on = [exercises_link(lesson), *map(lesson_link, after)]
    return _line(on, list(map(lesson_link, before)), INDEX)


def end_of_exercises(lesson: Lesson) -> str:
    """Markdown: on to the next lesson, back to this one, and the index."""
    on = [lesson_link(after, "../") for after in _neighbours(lesson)[1]]
    return _line(on, [lesson_link(lesson, "../")], f"../{INDEX}")


def _neighbours(lesson: Lesson) -> tuple[tuple[Lesson, ...], tuple[Lesson, ...]]:
    """The lesson before and the lesson after, each an empty tuple where there is none."""
    place = LESSONS.index(lesson)
    return LESSONS[max(place - 1, 0) : place], LESSONS[place + 1 : place + 2]


def _line(on: list[str], back: list[str], index: str) -> str:
    parts = [f"**{word}:** {', then '.join(links)}" for word, links in (("On", on), ("Back", back)) if links]
    return "---\n\n" + " · ".join([*parts, f"[All lessons]({index})"])
