"""Players, comparison, streaming and the form of Listen in a real browser."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Browser, open_browser

from songgen.families.use.song_folder import SONG_STATUS_FILE, SongRequest, Take, write_song_request
from songgen.runtime.status import StatusFile
from songgen.ui.page import page_server
from songgen.ui.workspace import SONGS_FOLDER, Workspace
from songgen.web.access import make_access

pytestmark = pytest.mark.faults

RATE = 16_000
SECONDS = 8
LYRICS = "[verse]\n<img src=x onerror=alert(1)>\n"

STREAM = """
const done = arguments[0];
(async () => {
  const { GrowingSound } = await import("/assets/stream.js");
  const { fileUrl } = await import("/assets/player.js");
  const starts = [];
  const start = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (when) {
    starts.push([when, this.buffer.duration, this.buffer.getChannelData(0)[0]]);
    return start.call(this, when);
  };
  const tracks = ["acc", "vocal"].map((label) => ({ label, url: fileUrl(`growing.${label}.wav`) }));
  const sound = new GrowingSound(document.querySelector("main"), { title: "Song", tracks });
  const sizeOf = async ({ url }) => Number((await fetch(url, { method: "HEAD" })).headers.get("content-length"));
  sound.button.click();
  let last = -1;
  for (;;) {
    const sizes = await Promise.all(tracks.map(sizeOf));
    const isOver = sizes[0] === last && sizes[0] === sizes[1] && sizes[0] > 150000;
    await sound.update(sizes, isOver);
    if (isOver) break;
    last = sizes[0];
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  AudioBufferSourceNode.prototype.start = start;
  done({ starts, heard: sound.currentTime, seconds: sound.scheduledSeconds });
})().catch((error) => done({ error: String(error) }));
"""

WAV = """
const done = arguments[0];
import("/assets/recorder.js").then(async ({ wavOf }) => {
  const file = wavOf([Float32Array.of(0, 0.5, -0.5), Float32Array.of(2, -2)], 44100);
  done([...new Uint8Array(await file.arrayBuffer())]);
});
"""

SPECTRUM = """
const done = arguments[0];
import("/assets/spectrogram.js").then(({ fft }) => {
  const real = Float64Array.from({ length: 64 }, (_, i) => Math.sin(2 * Math.PI * 5 * i / 64) + 0.25 * (i % 3));
  const imaginary = new Float64Array(64);
  const samples = [...real];
  fft(real, imaginary);
  done([samples, [...real], [...imaginary]]);
});
"""


def tone(path: Path, hertz: float, seconds: float = SECONDS) -> None:
    time = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE, subtype="PCM_16")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a comparison of two models that is finished; the first song has tracks."""
    root = tmp_path_factory.mktemp("workspace").resolve()
    folder = root / SONGS_FOLDER / "one"
    folder.mkdir(parents=True)
    request = SongRequest((Take("a", "org/base"), Take("b", "org/base", ("org/adapter:0.5",))),
                          options={"seed": 11, "seconds": 8, "temperature": 0.7}, created=1.0)  # fmt: skip
    write_song_request(folder, request, {"caption": "<b>calm</b>", "lyrics": LYRICS})
    for name, hertz in (("a", 220), ("b", 440), ("a.acc", 110), ("a.vocal", 330)):
        tone(folder / f"{name}.wav", hertz)
    StatusFile(folder, SONG_STATUS_FILE, "run").write("finished", exit_code=0)
    return root


@pytest.fixture(scope="module")
def browser(root: Path) -> Iterator[Browser]:
    server = page_server(Workspace(root), make_access("127.0.0.1", None))
    with server.running(), open_browser() as browser:
        browser.open(server.url)
        browser.open(f"{server.url.split('/?')[0]}/listen")
        browser.wait(lambda: browser.run("return document.querySelectorAll('.song .player').length"), "the song")
        yield browser


def asynchronous(browser: Browser, script: str) -> Any:
    return browser.command("POST", "/execute/async", {"script": script, "args": []})


def position(browser: Browser) -> float:
    return float(browser.run("return document.querySelector('.song .player-slider').ariaValueNow"))


def pressed(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map((b) => b.getAttribute('aria-pressed'))", selector
    )
    return found


def press(browser: Browser, text: str) -> None:
    """Press the first button of the song with a text."""
    script = "[...document.querySelectorAll('.song button')].find((b) => b.textContent === arguments[0]).click()"
    browser.run(script, text)


def test_a_song_plays_seeks_and_keeps_its_position_when_the_other_model_is_heard(browser: Browser) -> None:
    browser.click(".song .player-play")
    browser.wait(lambda: position(browser) > 0.3, "the song plays")
    browser.run("document.querySelector('.song .player-slider').focus()")
    browser.press("ArrowRight")
    assert position(browser) > 0.6, "an arrow seeks a twentieth of a short song"
    before = position(browser)
    browser.click('.song [data-track="1"]')
    after = position(browser)
    assert before <= after < before + 1.5
    assert pressed(browser, ".song [data-track]") == ["false", "true"]
    browser.wait(lambda: position(browser) > after + 0.2, "it goes on playing")
    browser.click(".song .player-slider")  # in its middle
    assert SECONDS / 2 - 0.2 < position(browser) < SECONDS / 2 + 1.5
    browser.click(".song .player-play")
    assert (paused := position(browser)) == position(browser) and paused > 0


def test_names_are_hidden_until_they_are_revealed(browser: Browser) -> None:
    texts = "return [...document.querySelectorAll('.song [data-track]')].map((button) => button.textContent)"
    assert browser.run(texts) == ["A: org/base", "B: org/base + org/adapter:0.5"]
    browser.click(".song label.switch input")
    assert browser.run(texts) == ["1", "2"]
    browser.click(".song .player [role=group] button:last-child")
    assert sorted(browser.run(texts)) == ["A: org/base", "B: org/base + org/adapter:0.5"]
    browser.click(".song label.switch input")


def test_tracks_are_muted_and_heard_alone(browser: Browser) -> None:
    browser.click(".song details summary")
    mixer = ".song details .player-mixer"
    browser.wait(lambda: browser.run("return document.querySelector(arguments[0]) !== null", mixer), "the tracks")
    browser.wait(lambda: "0:08" in browser.text(".song details .player-time"), "both files")
    names = "return [...document.querySelectorAll('.song details .player-track')].map((name) => name.textContent)"
    assert browser.run(names) == ["Accompaniment", "Vocals"]
    browser.click(f"{mixer} .row:first-child button")
    browser.click(f"{mixer} .row:last-child button:nth-of-type(2)")
    assert pressed(browser, f"{mixer} button") == ["true", "false", "false", "true"]


def test_texts_are_shown_as_they_are_and_fill_the_form_again(browser: Browser) -> None:
    assert browser.text(".song h3") == "<b>calm</b>"
    press(browser, "Use these settings again")
    browser.wait(lambda: browser.value("#field-lyrics"), "the settings")
    assert browser.value("#field-lyrics") == LYRICS and browser.value("#field-caption") == "<b>calm</b>"
    assert (browser.value("#field-seed"), browser.value("#field-temperature")) == ("11", "0.7")
    assert (browser.value("#model-a"), browser.value("#model-b"), browser.value(".adapter input")) == (
        "org/base", "org/base", "org/adapter",
    )  # fmt: skip
    preview = "return document.querySelector('[data-preview]').textContent"
    browser.wait(lambda: browser.run(preview).count("songgen generate") == 2, "both commands")
    assert "--adapter=org/adapter:0.5" in browser.run(preview) and browser.run(preview).count("--seed=11") == 2
    browser.run(
        "const l = document.getElementById('field-lyrics'); l.setSelectionRange(l.value.length, l.value.length)"
    )
    browser.click('[data-tag="[chorus]"]')
    assert browser.value("#field-lyrics") == f"{LYRICS}\n[chorus]\n"


def test_own_texts_are_kept_over_examples_and_a_new_load(browser: Browser) -> None:
    answers = "window.asked = 0; window.confirm = () => { window.asked += 1; return false; };"
    browser.run(answers)
    browser.write("#field-lyrics", "mine", clear=True)
    browser.press_button("Pop")
    press(browser, "Use these settings again")
    assert browser.value("#field-lyrics") == "mine" and browser.run("return window.asked") == 2
    browser.reload()
    browser.wait(lambda: browser.value("#field-lyrics") == "mine", "the draft")
    browser.run("window.confirm = () => true")
    browser.press_button("Pop")
    browser.run(answers)
    browser.press_button("Folk")
    assert "river" in browser.value("#field-lyrics") and browser.run("return window.asked") == 0
    browser.wait(lambda: browser.run("return document.querySelectorAll('.song .player').length"), "the song")


def test_strengths_are_sent_as_they_are_shown(browser: Browser) -> None:
    song = {"caption": "c", "lyrics": "", "ending": ".wav", "options": {},
            "takes": [{"model": "org/base", "adapter": ["org/adapter:0.33"]}]}  # fmt: skip
    browser.run("document.dispatchEvent(new CustomEvent('use-settings', { detail: arguments[0] }))", song)
    browser.wait(lambda: browser.run("return document.querySelector('.adapter output')?.textContent") == "0.33", "it")
    preview = "return document.querySelector('[data-preview]').textContent"
    browser.wait(lambda: "--adapter=org/adapter:0.33" in browser.run(preview), "the command")


def test_a_growing_song_is_heard_without_gaps_and_its_tracks_in_step(browser: Browser, root: Path) -> None:
    opened = {
        hertz: soundfile.SoundFile(root / f"growing.{name}.wav", "w", RATE, 1, "PCM_16", format="WAV")
        for name, hertz in (("acc", 110), ("vocal", 330))
    }

    def write() -> None:
        for part in range(12):
            time = np.arange(part * RATE // 2, (part + 1) * RATE // 2) / RATE
            for hertz, file in opened.items():
                file.write(0.3 * np.sin(2 * np.pi * hertz * time))
                file.flush()
            threading.Event().wait(0.1)
        for file in opened.values():
            file.close()

    for file in opened.values():
        file.flush()
    writer = threading.Thread(target=write)
    writer.start()
    found = asynchronous(browser, STREAM)
    writer.join()
    assert "error" not in found, found
    first, second = found["starts"][::2], found["starts"][1::2]
    assert len(first) >= 3 and [entry[:2] for entry in first] == [entry[:2] for entry in second]
    for before, after in zip(first, first[1:], strict=False):
        assert after[0] == pytest.approx(before[0] + before[1], abs=1e-6)
    assert found["seconds"] == pytest.approx(6) and 0 < found["heard"] < 6
    # The samples are those of the file: each part begins where the one before ended.
    frames = np.cumsum([0, *(round(entry[1] * RATE) for entry in first)])[:-1]
    samples, _ = soundfile.read(root / "growing.acc.wav")
    assert [entry[2] for entry in first] == pytest.approx(samples[frames], abs=1e-4)


def test_a_recording_is_a_wav_file(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "recording.wav").write_bytes(bytes(asynchronous(browser, WAV)))
    samples, rate = soundfile.read(tmp_path / "recording.wav")
    assert rate == 44_100
    assert samples == pytest.approx([0, 0.5, -0.5, 1, -1], abs=1e-4)


def test_the_spectrum_is_that_of_numpy(browser: Browser) -> None:
    samples, real, imaginary = asynchronous(browser, SPECTRUM)
    assert np.allclose(np.array(real) + 1j * np.array(imaginary), np.fft.fft(samples), atol=1e-9)


def test_the_spectrogram_shows_the_tones(browser: Browser) -> None:
    """220 Hz and 440 Hz are bright at their height, and the rest is dark."""
    press(browser, "Spectrogram")
    script = """
      const canvas = document.querySelector(".song .player-spectrum");
      const height = (hertz) => 1 - Math.log(hertz / 40) / Math.log(20000 / 40);
      const bright = (hertz) => canvas.getContext("2d").getImageData(
        canvas.width / 2, height(hertz) * canvas.height, 1, 1).data[0];
      return canvas ? [220, 440, 60, 2000].map(bright) : [0];
    """
    chosen = browser.run("return Number(document.querySelector('.song [data-track][aria-pressed=true]').dataset.track)")
    browser.wait(lambda: max(browser.run(script)) > 200, "the spectrogram")
    low, high, *silent = browser.run(script)
    assert (low > 200, high > 200) == ((False, True) if chosen == 1 else (True, False))
    assert max(silent) < 100


def test_nothing_was_refused_or_failed(browser: Browser) -> None:
    foreign = ("/data", "favicon", "willReadFrequently")  # other parts of the page; a hint about this test
    own = [text for text in browser.complaints() if not any(name in text for name in foreign)]
    assert own == []
