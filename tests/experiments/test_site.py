import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.harness import record
from experiments.harness.site import write_site


class Reader(HTMLParser):
    """Links, pictures, and the text of every row of every table."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.pictures, self.rows, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.pictures.append(values["src"])
        if tag == "tr":
            self.rows.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "tr"

    def handle_data(self, data):
        if self.inside:
            self.rows[-1] += data + " "


@pytest.fixture
def site(repository):
    assert main(["run", "toy/line", "cpu", "--record"]) == 0
    write_site(Path("site"))
    return Path("site")


def test_every_link_and_picture_resolves(site):
    pages = {path.name: Reader(path.read_text()) for path in site.glob("*.html")}
    assert pages.keys() == {"index.html", "toy-line.html"}
    for page in pages.values():
        for target in (*page.links, *page.pictures):
            assert (site / target).is_file(), target
    assert pages["index.html"].links.count("toy-line.html") == 2
    assert pages["toy-line.html"].pictures == ["figures/toy-line-cpu.png"]


def test_a_page_shows_the_record(site):
    text = (site / "toy-line.html").read_text()
    environment = json.loads((record.RECORDS / "toy/line/cpu/environment.json").read_text())
    assert environment["git_commit"] in text
    assert "python -m experiments verify toy/line cpu" in text
    assert "@article{gauss1809" in text
    assert "&lt;b&gt;one&lt;/b&gt;" in text  # a statement is text and never HTML
    assert "<b>" not in text


def test_writing_twice_gives_the_same_bytes(site):
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    write_site(site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


def test_the_command_wants_a_folder(repository, capsys):
    assert main(["report", "--site"]) == 2
    assert "--site FOLDER" in capsys.readouterr().err


def test_a_browser_reads_the_claims(site, browse):
    read = Reader(browse((site / "toy-line.html").resolve().as_uri()))
    (row,) = [row for row in read.rows if "slope_above_one" in row]
    assert "The slope is above 1 | <b>one</b>." in row
    assert row.split()[-1] == "holds"
