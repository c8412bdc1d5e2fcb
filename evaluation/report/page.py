"""The page: the sections of a run in the template, as one HTML file."""

from pathlib import Path

import jinja2

from evaluation.report import plots
from evaluation.report.run import Run
from evaluation.report.sections import sections
from storage.files import whole_file


def write_report(run: Run, path: Path) -> None:
    """Write the report of `run` as one HTML file, whole or not at all.

    Raises ValueError naming the first clip or identity where the run's parts do not belong together.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "light": plots.LIGHT,
        "dark": plots.DARK,
        "variables": lambda colours: " ".join(f"--{name}: {colour};" for name, colour in colours.items()),
    }
    page = environment.get_template("report.html").render(sections(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
