"""The review page in a real browser: keys, saving, undo, two tabs, sound, and texts that would like to be scripts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import ELEMENT, Browser, open_browser
from review_songs import EVIL, apply_corrections, clip, write_work_folder

from songgen.prepare.engine.record import Refusal
from songgen.prepare.review.corrections import CORRECTIONS_FILE
from songgen.prepare.review.desk import ReviewDesk
from songgen.prepare.review.page import ReviewPage
from songgen.prepare.timing.lyrics_alignment import written_lines
from songgen.web.access import make_access
from songgen.web.server import LocalServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@dataclass
class Review:
    """A page in the browser, and the folder behind it."""

    browser: Browser
    work: Path
    server: LocalServer

    def edits(self) -> list[Any]:
        path = self.work / CORRECTIONS_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def wait_for_edits(self, count: int) -> list[Any]:
        self.browser.wait(lambda: len(self.edits()) >= count, f"{count} edits on disk")
        return self.edits()

    def wait_for_clip(self, clip_id: str) -> None:
        self.browser.wait(lambda: self.browser.text("#clip-id") == clip_id, f"clip {clip_id}")

    def wait_for(self, selector: str, text: str) -> None:
        self.browser.wait(lambda: text in self.browser.text(selector), f"{text!r} in {selector}")

    def listed(self) -> list[str]:
        found: list[str] = self.browser.run(
            "return [...document.querySelectorAll('#clips button')].map((button) => button.dataset.id)"
        )
        return found

    def choose(self, name: str, value: str) -> None:
        script = (
            "const select = document.querySelector(`select[name=${arguments[0]}]`); select.value = arguments[1];"
            "select.dispatchEvent(new Event('change', {bubbles: true}))"
        )
        self.browser.run(script, name, value)


@pytest.fixture
def review(browser: Browser, tmp_path: Path) -> Iterator[Review]:
    with review_of(browser, write_work_folder(tmp_path)) as review:
        yield review


@contextmanager
def review_of(browser: Browser, work: Path) -> Iterator[Review]:
    server = LocalServer(ReviewPage(ReviewDesk(work), "songs").routes(), make_access())
    with server.running():
        browser.resize(1280, 900)
        browser.open(server.url)
        review = Review(browser, work, server)
        browser.wait(lambda: browser.text("#clip-id"), "the first clip")
        yield review
        complaints = browser.complaints()
        browser.open("about:blank")
    assert not [text for text in complaints if "409" not in text], complaints


def test_the_address_of_the_terminal_opens_the_first_clip_and_hides_the_token(review: Review) -> None:
    review.wait_for_clip("river_000")
    assert "token" not in review.browser.address
    assert review.browser.run("return document.cookie") == "", "scripts do not see the cookie"
    assert review.browser.text("#progress-text") == "0 of 5 reviewed"
    assert review.listed() == ["river_000", "river_001", "lake_003", "lake_002", "gone"]


def test_texts_are_shown_and_never_run(review: Review) -> None:
    review.browser.run("document.querySelector('[data-id=lake_003]').click()")
    review.wait_for_clip("lake_003")
    assert review.browser.value("#lyrics") == EVIL and review.browser.value("#caption") == EVIL
    assert review.browser.run("return document.title") == "Review: songs"
    assert review.browser.run("return document.querySelectorAll('img, #clips script').length") == 0


def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(review: Review) -> None:
    script = (
        "const found = []; document.addEventListener('securitypolicyviolation', (event) => found.push(event));"
        "const made = document.createElement('script'); made.textContent = 'window.taken = true';"
        "document.body.append(made); return window.taken === true"
    )
    assert review.browser.run(script) is False
    assert any("Content Security Policy" in text for text in review.browser.complaints())


def test_lyrics_are_saved_while_one_types_and_lines_keep_their_times(review: Review) -> None:
    review.browser.write("#lyrics", "[verse]\nfirst birds\nsecond words", clear=True)
    review.wait_for_edits(1)
    review.wait_for("#status", "saved")
    [found] = apply_corrections([clip("river", 0, review.work)], review.work)
    assert found.lyrics == "[verse]\nfirst birds\nsecond words"
    assert [(line.text, line.start, line.end) for line in found.lines] == [
        ("first birds", 0.5, 1.5), ("second words", 2.0, 3.0)
    ]  # fmt: skip
    review.browser.reload()
    review.wait_for_clip("river_000")
    assert "birds" in review.browser.value("#lyrics")


@pytest.mark.parametrize(
    "lyrics",
    [
        "",
        "one",
        "[verse]\none\n\n two \r\nthree",
        "[Verse 2: all] one [x] two\n[]",
        "a\u2028b\x0bc\x85d",
        "[[a]] b",
        "[open\nb]",
    ],
)
def test_page_and_program_find_the_same_lines(review: Review, lyrics: str) -> None:
    found = review.browser.call("/assets/lyrics.js", "writtenLines", lyrics)
    assert found == [line.text for line in written_lines(lyrics)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("abcd", [1, 2, 3, 4]),
        ("abXcd", [1, 2, None, 3, 4]),
        ("acd", [1, 3, 4]),
        ("aXcd", [1, 2, 3, 4]),
        ("Xabcd", [None, 1, 2, 3, 4]),
        ("aXcYd", [1, None, 3, None, 4]),
        ("", []),
    ],
)
def test_lines_keep_their_times_when_others_come_and_go(review: Review, after: str, expected: list[Any]) -> None:
    assert review.browser.call("/assets/lyrics.js", "carryTimes", list("abcd"), [1, 2, 3, 4], list(after)) == expected


def test_times_of_a_line_are_set_by_hand_and_where_the_player_stands(review: Review) -> None:
    review.browser.click("#timing summary")
    review.browser.write("#lines tr:nth-child(1) td:nth-child(2) input", "0.75", clear=True)
    review.browser.press("Tab")
    assert review.wait_for_edits(1)[0]["changes"]["lines"][0]["start"] == 0.75
    review.browser.wait(lambda: review.browser.run("return player.readyState > 0"), "the track")
    review.browser.run("document.querySelector('#player').currentTime = 2.5")
    review.browser.click("#lines tr:nth-child(2) td:last-child button:nth-child(2)")
    assert review.wait_for_edits(2)[1]["changes"]["lines"][1]["start"] == 2.5


def test_a_whole_review_by_keys_alone(review: Review) -> None:
    press, wait = review.browser.press, review.wait_for_clip
    press("a")
    wait("river_001")
    press("r")
    review.browser.write("#reason", "noise")
    press("Enter")
    wait("lake_003")
    press("u")
    wait("river_001")
    review.wait_for("#status", "taken back")
    press("j")
    wait("lake_003")
    press("k")
    wait("river_001")
    press("e")
    press("!")
    press("Escape")
    review.wait_for("#status", "saved")
    press("a")
    wait("lake_003")
    decided = [edit.get("changes", {}).get("verdict", f"reverts {edit.get('reverts')}") for edit in review.edits()]
    assert decided == ["accepted", "refused", "reverts 2", "reverts None", "accepted"]
    assert "!" in review.edits()[3]["changes"]["lyrics"]
    assert review.browser.text("#progress-text") == "2 of 5 reviewed"


def test_a_change_is_sent_before_the_next_clip_opens(review: Review) -> None:
    """The pause after which typing is saved has not passed yet."""
    review.browser.write("#caption", "loud rock", clear=True)
    review.browser.press("Escape")
    review.browser.press("j")
    review.wait_for_clip("river_001")
    assert [edit["changes"] for edit in review.edits()] == [{"caption": "loud rock"}]


@pytest.mark.parametrize(("button", "expected"), [("#keep-mine", "second tab"), ("#take-theirs", "first tab")])
def test_a_second_tab_is_asked_before_it_overwrites_the_first(review: Review, button: str, expected: str) -> None:
    ReviewDesk(review.work).save("river_000", 0, {"caption": "first tab"})
    review.browser.write("#caption", "second tab", clear=True)
    hidden = "return document.querySelector('#conflict').hidden"
    review.browser.wait(lambda: not review.browser.run(hidden), "the question")
    place = review.browser.run("return document.querySelector('#conflict').getBoundingClientRect().toJSON()")
    assert 0 <= place["top"] < place["bottom"] <= 900, "it is scrolled to"
    review.browser.press("Escape")
    review.browser.press("j")
    assert review.browser.value("#caption") == "second tab" and len(review.edits()) == 1
    review.browser.click(button)
    review.browser.wait(lambda: review.browser.run(hidden), "an answer")
    review.wait_for_edits(2 if expected == "second tab" else 1)
    assert review.browser.value("#caption") == expected
    assert review.edits()[-1]["changes"] == {"caption": expected}


def test_what_cannot_be_stored_is_said_and_stays_in_the_field(review: Review) -> None:
    review.browser.write("#language", "english", clear=True)
    review.wait_for("#problems", "not a language code")
    review.browser.press("Escape")
    review.browser.press("j")
    assert review.browser.text("#clip-id") == "river_000" and review.browser.value("#language") == "english"
    review.browser.write("#language", "de", clear=True)
    assert review.wait_for_edits(1)[0]["changes"] == {"language": "de"}
    review.browser.wait(lambda: review.browser.run("return document.querySelector('#problems').hidden"), "no problem")
    review.browser.complaints()  # the refused request


def test_tracks_play_from_the_same_place_and_a_part_stops_at_its_end(review: Review) -> None:
    def player(name: str) -> Any:
        return review.browser.run(f"return document.querySelector('#player').{name}")

    review.browser.wait(lambda: player("readyState") > 0, "the track")
    assert player("duration") == pytest.approx(4.0, abs=0.01)
    review.browser.press("ArrowRight")
    review.browser.wait(lambda: player("currentTime") == 2.0, "two seconds on")
    review.browser.press("2")
    review.browser.wait(
        lambda: "vocal" in player("src") and player("currentTime") == 2.0, "the vocal at the same place"
    )
    review.browser.press(" ")
    review.browser.wait(lambda: player("currentTime") > 2.1, "sound")
    review.browser.click("#timing summary")
    review.browser.run("document.querySelector('#player').playbackRate = 0.5")  # however late a busy machine looks
    review.browser.click("#lines tr:nth-child(1) td:last-child button")
    review.browser.wait(lambda: player("paused") and 1.5 <= player("currentTime") < 3.5, "the end of the line")


def test_the_waveform_is_drawn(review: Review) -> None:
    drawn = (
        "const canvas = document.querySelector('#wave'), copy = document.createElement('canvas');"
        "copy.width = canvas.width; copy.height = canvas.height;"
        # a copy of its own: browsers complain of pages whose canvas is read back more than once
        "const context = copy.getContext('2d', {willReadFrequently: true}); context.drawImage(canvas, 0, 0);"
        "const pixels = context.getImageData(0, 0, copy.width, copy.height).data;"
        "let count = 0; for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0; return count"
    )
    lines_alone = 2 * 1.0 / 4.0  # two lines of a second in four
    area = review.browser.run("const canvas = document.querySelector('#wave'); return canvas.width * canvas.height")
    review.browser.wait(lambda: review.browser.run(drawn) > (lines_alone + 0.05) * area, "bars beside the lines")


def test_lists_are_searched_and_kept_over_a_reload(review: Review) -> None:
    review.choose("state", "out")
    review.browser.wait(lambda: review.listed() == ["river_001", "gone"], "those that are left out")
    review.browser.reload()
    review.browser.wait(lambda: review.listed() == ["river_001", "gone"], "the same list")
    review.choose("state", "")
    review.browser.write("[name=search]", "second")
    review.browser.wait(lambda: review.listed() == ["river_000", "river_001"], "those that were searched")


def test_a_list_of_open_clips_goes_on_to_its_end(browser: Browser, tmp_path: Path) -> None:
    """More than a page: what is decided leaves the list, and the rest moves up."""
    work = write_work_folder(tmp_path)
    line = clip("river", 0, work).to_json()
    with (work / "records.jsonl").open("w") as file:
        file.writelines(line.replace('"river_000"', f'"river_{number:03d}"').replace(
            '"start": 0.0', f'"start": {number * 10}.0') + "\n" for number in range(53))  # fmt: skip
    desk = ReviewDesk(work)
    for number in range(48):
        desk.save(f"river_{number:03d}", 0, {"verdict": "accepted"})
    with review_of(browser, work) as review:
        review.choose("state", "open")
        review.browser.wait(lambda: len(review.listed()) == 5, "the open ones")
        review.browser.click("#clips button")
        for number in range(48, 53):
            review.wait_for_clip(f"river_{number:03d}")
            review.browser.press("a")
        review.wait_for("#progress-text", "53 of 53")


def test_a_broken_song_says_why_and_cannot_be_accepted(review: Review) -> None:
    review.browser.run("document.querySelector('[data-id=gone]').click()")
    review.wait_for_clip("gone")
    assert "repair the song" in review.browser.text("#refusal")
    assert review.browser.run("return document.querySelector('#accept').disabled") is True
    review.browser.press("a")
    assert not review.edits()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(review: Review, width: int) -> None:
    review.browser.resize(width, 800)
    review.browser.run("for (const details of document.querySelectorAll('details')) details.open = true")
    wide = (
        "const limit = document.documentElement.clientWidth + 1;"
        "return [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()"
        " && !element.closest('.unseen, legend, dialog') && element.getBoundingClientRect().right > limit)"
        ".map((element) => element.id || element.tagName)"
    )
    assert review.browser.run(wide) == []


def test_every_control_has_a_name(review: Review) -> None:
    """As a screen reader would say it, computed by the browser."""
    review.browser.run("for (const details of document.querySelectorAll('details')) details.open = true")
    review.browser.devtools("Accessibility.enable", {})
    nodes = review.browser.devtools("Accessibility.getFullAXTree", {})["nodes"]
    kinds = {"button", "textbox", "searchbox", "combobox", "spinbutton", "radio", "checkbox", "slider", "progressbar"}
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in kinds]
    assert len(controls) > 25
    assert not [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")]


def test_another_copy_is_kept_instead_by_a_key(browser: Browser, tmp_path: Path) -> None:
    copy = Refusal("duplicates", "duplicate", "it sounds like river_000, which is kept", 0.9, 0.65, kept="river_000")
    folder = write_work_folder(tmp_path)
    write_work_folder(tmp_path, [clip("river", 0, folder), clip("lake", 0, folder, refusal=copy)])
    with review_of(browser, folder) as review:
        assert browser.run("return document.querySelector('#copy').hidden"), "the clip is not a copy"
        browser.press("j")
        review.wait_for_clip("lake_000")
        browser.press("o")
        review.wait_for_clip("river_000")
        browser.press("j")
        review.wait_for_clip("lake_000")
        browser.press("i")
        [edit] = review.wait_for_edits(1)
        assert edit["id"] == "lake_000" and edit["changes"]["verdict"] == "accepted"
        review.wait_for("#status", "kept instead")
        review.wait_for("#clip-state", "accepted")


# ---- what must not be lost

AWAY = (
    "window.reach ??= window.fetch; const wait = window.setTimeout;"
    "window.setTimeout = (action, time, ...others) => wait(action, time === 5000 ? 50 : time, ...others);"
    "window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))"
)
"""Script after which the server cannot be reached; `window.fetch = window.reach` ends that."""

BACK = "window.fetch = window.reach"


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["problems", "conflict"])
def test_on_a_phone_a_clip_that_is_not_saved_stays_open_with_its_problem(review: Review, kind: str) -> None:
    browser = review.browser
    browser.resize(420, 800)
    if kind == "problems":
        browser.write("#language", "not a language!", clear=True)
    else:
        ReviewDesk(review.work).save("river_000", 0, {"caption": "first tab"})
        browser.write("#caption", "second tab", clear=True)
    browser.wait(lambda: browser.run(f"return !document.getElementById('{kind}').hidden"), kind)
    browser.run("document.querySelector('main').scrollTop = 0; document.getElementById('to-list').click()")
    browser.wait(lambda: review.browser.run(
        f"const place = document.getElementById('{kind}').getBoundingClientRect();"
        "return place.height > 0 && place.top >= 0 && place.bottom <= innerHeight"), "the reason")  # fmt: skip
    assert browser.run("return document.getElementById('clip-pane').checkVisibility()")
    if kind == "problems":
        browser.write("#language", "de", clear=True)
        browser.click("#to-list")
        browser.wait(lambda: browser.run("return document.getElementById('list-pane').checkVisibility()"), "the list")
    browser.complaints()  # the refused request


@pytest.mark.faults
def test_the_first_click_after_a_search_opens_its_clip(review: Review) -> None:
    review.browser.write("[name=search]", "second")
    review.browser.wait(lambda: review.listed() == ["river_000", "river_001"], "those that were searched")
    place = {ELEMENT: review.browser.element("[data-id=river_001]")}
    press = [{"type": "pointerMove", "origin": place, "x": 0, "y": 0}, {"type": "pointerDown", "button": 0},
             {"type": "pause", "duration": 400}, {"type": "pointerUp", "button": 0}]  # fmt: skip
    mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": press}
    review.browser.command("POST", "/actions", {"actions": [mouse]})
    review.wait_for_clip("river_001")


@pytest.mark.faults
def test_the_enter_that_ends_a_composition_refuses_nothing(review: Review) -> None:
    review.browser.run(
        "document.getElementById('reason').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    review.browser.write("#caption", "loud rock", clear=True)
    assert [edit["changes"] for edit in review.wait_for_edits(1)] == [{"caption": "loud rock"}]


@pytest.mark.faults
def test_what_is_written_while_the_server_is_away_is_saved_later(review: Review) -> None:
    review.browser.run(AWAY)
    review.browser.write("#caption", "loud rock", clear=True)
    review.wait_for("#status", "does not answer")
    review.browser.press("Escape")
    review.browser.press("a")
    asked = (
        "const event = new Event('beforeunload', {cancelable: true}); window.dispatchEvent(event);"
        "return event.defaultPrevented"
    )
    assert review.browser.run(asked), "the browser asks before it leaves the page"
    review.browser.press("j")
    assert review.browser.text("#clip-id") == "river_000"
    review.browser.run(BACK)
    [edit] = review.wait_for_edits(1)
    assert edit["changes"]["caption"] == "loud rock" and edit["changes"]["verdict"] == "accepted"
    review.wait_for("#status", "saved")
    assert not review.browser.run(asked)


@pytest.mark.faults
def test_undo_takes_nothing_back_and_nothing_away_while_a_change_cannot_be_saved(review: Review) -> None:
    review.browser.press("a")
    review.wait_for_clip("river_001")
    review.browser.run(AWAY)
    review.browser.write("#caption", "not saved", clear=True)
    review.browser.press("Escape")
    review.browser.press("u")
    review.wait_for("#status", "does not answer")
    assert review.browser.value("#caption") == "not saved" and review.browser.text("#clip-id") == "river_001"
    review.browser.run(BACK)
    review.wait_for_edits(2)
    review.wait_for("#status", "saved")
    review.browser.press("u")  # the caption
    review.wait_for_edits(3)
    review.wait_for("#status", "taken back")
    review.browser.press("u")  # the verdict, on the clip before
    assert review.wait_for_edits(4)[3]["reverts"] == 1


@pytest.mark.faults
def test_a_late_answer_does_not_replace_a_newer_list(review: Review) -> None:
    review.browser.run(
        "const reach = window.fetch; window.late = new Promise((done) => { window.release = done; });"
        "window.fetch = (path, ...others) => {"
        " const answer = reach(path, ...others); const isFirst = String(path).includes('state=out');"
        " return isFirst ? answer.then((found) => window.late.then(() => found)) : answer; }"
    )
    review.choose("state", "out")
    review.choose("state", "accepted")
    review.browser.wait(lambda: review.listed() == [], "the newer list")
    review.browser.run("window.release(); return new Promise((done) => { setTimeout(done, 100); })")
    assert review.listed() == []


@pytest.mark.faults
def test_a_list_that_cannot_be_read_is_said(review: Review) -> None:
    review.browser.run(AWAY)
    review.choose("state", "out")
    review.wait_for("#status", "does not answer")


@pytest.mark.faults
def test_a_clip_that_is_gone_can_be_left(review: Review) -> None:
    """The data set was prepared again meanwhile: nothing of the clip can be stored any more."""
    review.browser.write("#caption", "loud rock", clear=True)
    review.wait_for_edits(1)
    review.wait_for("#status", "saved")
    write_work_folder(review.work.parent, [clip("lake", 3, review.work)])
    review.browser.run("window.asked = 0; window.confirm = () => { window.asked += 1; return window.asked > 1; }")
    review.browser.write("#caption", "quiet", clear=True)
    review.wait_for("#status", "no such clip")
    review.browser.press("Escape")
    review.browser.press("j")
    review.browser.wait(lambda: review.browser.run("return window.asked") == 1, "the question")
    assert review.browser.value("#caption") == "quiet"
    review.choose("state", "")
    review.browser.wait(lambda: review.listed() == ["lake_003"], "the new list")
    review.browser.click("[data-id=lake_003]")
    review.wait_for_clip("lake_003")
    review.browser.complaints()  # the refused requests
