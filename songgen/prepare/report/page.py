"""The report as one HTML file; all text from songs is escaped, and charts are inline SVG."""

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from songgen.prepare.engine.record import JsonObject
from songgen.prepare.report.advice import advise
from songgen.web.document import link, render_document, section

WIDTH, HEIGHT = 290, 130
"""Size of the bars of a histogram in SVG units."""

FOOT, LEFT, TOP, RIGHT = 20, 34, 8, 14
"""Room for the numbers around them."""

MAX_TICKS = 6
"""Most numbers at the axis of the values."""

SHORT_TEXT = 300
"""Most characters of a caption that is shown in full; of a longer one, the beginning is shown until it is opened."""


def render_report(report: JsonObject) -> str:
    """Return the page of a report from `build_report`."""
    parts = [
        ("next", "What to do next", _advice(report)),
        ("steps", "From songs to clips", _stages(report) + _refusals(report)),
        ("figures", "Distribution of the clips", _histograms(report["histograms"])),
        ("captions", "Content of the captions", _tags(report)),
        ("words", "Languages and lyrics", _words(report)),
        ("accepted", "Clips of the data set", _samples(report["samples"]["accepted"])),
        ("refused", "What was left out", _samples(report["samples"]["refused"])),
        ("duplicates", "Duplicates", _duplicates(report["duplicates"])),
        ("notices", "Notices on the inputs", _list(report["notices"])),
    ]
    shown = [(anchor, title, content) for anchor, title, content in parts if content]
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in shown)
    origin = f"<p>Report of songgen prepare. Inputs: {escape(', '.join(report['inputs']))}.</p>"
    body = [f"<header><h1>{_name(report['title'])}</h1>{origin}<nav>{links}</nav></header>", _summary(report)]
    body += [section(*part) for part in shown]
    style = (Path(__file__).parent / "report_page.css").read_text(encoding="utf-8")
    return render_document(f"{report['title']}: report", "\n".join(body), style)


def _summary(report: JsonObject) -> str:
    cards = [
        (_length(report["seconds"]), "of clips"),
        (f"{report['clips']:,}", "clips"),
        (f"{num_songs_kept(report):,} of {report['songs']:,}", "songs have clips"),
    ]
    cards += [(f"{values['clips']:,}", f"clips in {split}") for split, values in report["splits"].items()]
    shown = "".join(
        f'<article><span class="value">{escape(value)}</span><span>{escape(label)}</span></article>'
        for value, label in cards
    )
    return f'<div class="figures">{shown}</div>{_goals(report["goals"])}'


def num_songs_kept(report: JsonObject) -> int:
    """Return how many songs have a clip in the data set."""
    return int(report["stages"][-1]["songs"])


def _goals(goals: Sequence[JsonObject]) -> str:
    lines = " and ".join(
        f"{goal['hours']:,} hours for {escape(goal['what'])} (this is {_percent(goal['share'])} of it)"
        for goal in goals
    )
    return (
        f"<p>For comparison: notes on training models of speech mention {lines}. "
        "Good labels count as much as hours.</p>"
    )


def _advice(report: JsonObject) -> str:
    return f'<ol class="advice">{"".join(f"<li>{_text(line)}</li>" for line in advise(report))}</ol>'


def _stages(report: JsonObject) -> str:
    total = report["stages"][0]["seconds"] or 1.0
    rows = []
    for stage in report["stages"]:
        clips = "" if stage["clips"] is None else f"{stage['clips']:,}"
        rows.append(
            f'<tr><th scope="row">{escape(stage["step"])}</th><td class="value">{stage["songs"]:,}</td>'
            f'<td class="value">{clips}</td><td class="value">{_length(stage["seconds"])}</td>'
            f'<td class="bar">{_bar(stage["seconds"] / total, stage["lost_seconds"] / total)}</td></tr>'
        )
    key = '<p><span class="key in"></span>left<span class="key out"></span>left out by this step</p>'
    return key + _table(("After", "Songs", "Clips", "Length", ""), rows)


def _refusals(report: JsonObject) -> str:
    rows = [
        f"<tr><td><code>{escape(entry['code'])}</code></td><td>{escape(entry['step'])}</td>"
        f'<td class="value">{entry["count"]:,}</td><td class="value">{_length(entry["seconds"])}</td>'
        f'<td class="value">{entry["alone"]:,}</td><td>{_text(entry["meaning"])}</td></tr>'
        for entry in report["refusals"]
    ]
    rows += [
        f"<tr><td><code>{escape(entry['reason'])}</code></td><td>segment</td><td></td>"
        f'<td class="value">{_length(entry["seconds"])}</td><td></td><td>{escape(entry["meaning"])}</td></tr>'
        for entry in report["unused"]
    ]
    if not rows:
        return "<p>Nothing was left out.</p>"
    heads = ("Reason", "Step", "Number", "Length", "Only reason", "Meaning")
    return "<h3>Why something was left out</h3>" + _table(heads, rows)


def _histograms(histograms: Sequence[JsonObject]) -> str:
    if not histograms:
        return ""
    key = (
        '<p><span class="key in"></span>in the data set<span class="key out"></span>left out; '
        "a dashed line is a limit of the filter</p>"
    )
    return f'{key}<div class="charts">{"".join(map(_histogram, histograms))}</div>'


def _histogram(histogram: JsonObject) -> str:
    """Draw stacked bars, accepted below refused ones."""
    edges, accepted, refused = histogram["edges"], histogram["accepted"], histogram["refused"]
    low, high = edges[0], edges[-1]
    highest = max(map(sum, zip(accepted, refused, strict=True)))
    drawn = []
    step = WIDTH / len(accepted)
    for index, (inside, outside) in enumerate(zip(accepted, refused, strict=True)):
        lower, upper = HEIGHT * inside / highest, HEIGHT * outside / highest
        left = f'x="{index * step + 0.5:.1f}" width="{max(0.5, step - 1):.1f}"'
        what = f"{edges[index]:g} to {edges[index + 1]:g}: {inside} in, {outside} left out"
        drawn.append(
            f"<g><title>{what}</title>"
            f'<rect class="in" {left} y="{HEIGHT - lower:.1f}" height="{lower:.1f}"/>'
            f'<rect class="out" {left} y="{HEIGHT - lower - upper:.1f}" height="{upper:.1f}"/></g>'
        )
    for limit in histogram["limits"]:
        if low <= limit <= high:
            place = WIDTH * (limit - low) / (high - low)
            drawn.append(f'<line class="limit" x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{HEIGHT}"/>')
    drawn.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>')
    drawn += _axes(edges, highest)
    unit = f" ({histogram['unit']})" if histogram["unit"] else ""
    median = "" if histogram["median"] is None else f", median {histogram['median']:.4g}"
    label = escape(f"{histogram['label']}{unit}{median}")
    return (
        f'<figure><figcaption>{label}</figcaption><svg viewBox="{-LEFT} {-TOP} {LEFT + WIDTH + RIGHT} '
        f'{TOP + HEIGHT + FOOT}" role="img" '
        f'aria-label="{label}">{"".join(drawn)}</svg></figure>'
    )


def _axes(edges: Sequence[float], highest: int) -> Iterator[str]:
    """Draw numbers at both axes: values at some edges of the bars, and counts."""
    num_bars = len(edges) - 1
    apart = -(-num_bars // MAX_TICKS)
    for index in range(0, num_bars + 1, apart):
        place = WIDTH * index / num_bars
        yield f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>'
        yield f'<text x="{place:.1f}" y="{HEIGHT + FOOT - 4}" text-anchor="middle">{edges[index]:g}</text>'
    for count in sorted({0, highest // 2, highest}):
        height = HEIGHT * (1 - count / highest)
        yield f'<text x="-4" y="{height + 4:.1f}" text-anchor="end">{count:,}</text>'
        yield f'<line class="axis" x1="-3" x2="0" y1="{height:.1f}" y2="{height:.1f}"/>'


def _tags(report: JsonObject) -> str:
    if not report["clips"]:
        return ""
    tags = report["tags"]
    rows = [
        f'<tr><th scope="row">{escape(kind)}</th><td class="value">{_percent(count / report["clips"])}</td>'
        f'<td class="bar">{_bar(count / report["clips"])}</td></tr>'
        for kind, count in tags["kinds"].items()
    ]
    table = _table(("Caption and tags name the", "Clips", ""), rows)
    common = "".join(f"<li>{escape(tag)} {count:,}</li>" for tag, count in tags["common"])
    known = (
        f"<p>Tempo is known of {tags['tempo_known']:,} and key of {tags['key_known']:,} of {report['clips']:,} clips. "
        f"{tags['different']:,} different tags; the most common:</p>"
    )
    return f'{table}{known}<ul class="tags">{common}</ul>'


def _words(report: JsonObject) -> str:
    if not report["clips"]:
        return ""
    rows = [
        f'<tr><th scope="row">{escape(language)}</th><td class="value">{values["songs"]:,}</td>'
        f'<td class="value">{values["clips"]:,}</td><td class="value">{_length(values["seconds"])}</td></tr>'
        for language, values in report["languages"].items()
    ]
    origins = ", ".join(f"{escape(origin)} {values['clips']:,}" for origin, values in report["lyrics"].items())
    return (
        _table(("Language", "Songs", "Clips", "Length"), rows)
        + f"<p>Lyrics of clips: {origins}.</p>"
        + _vocabulary(report)
    )


def _vocabulary(report: JsonObject) -> str:
    vocabulary = report["vocabulary"]
    if vocabulary is None:
        return "<p>No lyrics tokenizer was given to compare the lyrics with.</p>"
    share = vocabulary["unknown"] / max(1, vocabulary["pieces"])
    shown = (
        f"<p>Of {vocabulary['pieces']:,} pieces of lyrics, {vocabulary['unknown']:,} ({_percent(share)}) are unknown "
        f"to the lyrics tokenizer of {vocabulary['size']:,} entries.</p>"
    )
    pieces = "".join(f"<li>{escape(piece)} {count:,}</li>" for piece, count in vocabulary["unknown_pieces"])
    return shown + (f'<ul class="tags">{pieces}</ul>' if pieces else "")


def _samples(samples: Sequence[JsonObject]) -> str:
    return f'<div class="songs">{"".join(map(_sample, samples))}</div>' if samples else ""


def _sample(sample: JsonObject) -> str:
    name, title = _name(sample["id"]), sample["title"]
    heading = f"{escape(title)} <small>{name}</small>" if title else name
    reason = ""
    if "code" in sample:
        reason = f'<p class="reason"><code>{escape(sample["code"])}</code>: {escape(sample["reason"])}</p>'
    facts = [sample["language"], f"{sample['seconds']:.1f} s" if sample["seconds"] else "", sample["key"]]
    facts += [f"{sample['tempo']:g} bpm" if sample["tempo"] else "", sample["split"]]
    facts += [f"{figure.replace('_', ' ')} {value:g}" for figure, value in sample["figures"].items()]
    players = "".join(
        f'<figcaption>{escape(track)}</figcaption><audio controls preload="none" '
        f'aria-label="{escape(sample["id"])}, {escape(track)}" src="{link(file)}"></audio>'
        for track, file in sample["audio"].items()
    )
    lyrics = f'<p class="lyrics">{escape(sample["lyrics"])}</p>' if sample["lyrics"] else ""
    return (
        f'<article><h3>{heading}</h3>{reason}<p class="facts">{escape(" · ".join(filter(None, facts)))}</p>'
        f"{_caption(sample['caption'])}{lyrics}<figure>{players}</figure></article>"
    )


def _caption(text: str) -> str:
    """Show a caption; of a long one, the beginning."""
    if len(text) <= SHORT_TEXT:
        return f'<p class="caption">{escape(text)}</p>'
    begins = text[:SHORT_TEXT].rsplit(maxsplit=1)[0]
    return (
        f'<details class="caption"><summary>{escape(begins)} … <span>({len(text):,} characters)</span></summary>'
        f"<p>{escape(text)}</p></details>"
    )


def _name(text: str) -> str:
    """Escape a name, with places at which a browser may break it: after its parts, not in the middle of a word."""
    return re.sub(r"([_\-.~/]+)(?=[^_\-.~/])", r"\1<wbr>", escape(text))


def _duplicates(duplicates: Sequence[JsonObject]) -> str:
    rows = [
        f"<tr><td>{_name(group['kept'])}</td><td>{_name(entry['id'])}</td>"
        f'<td class="value">{entry["similarity"]:g}</td><td>{escape(entry["why"])}</td></tr>'
        for group in duplicates
        for entry in group["left_out"]
    ]
    hint = "<p>To keep another copy, use “Keep this copy instead” in <code>songgen review</code>.</p>"
    return hint + _table(("Kept", "Left out", "Similarity", "Kept because"), rows) if rows else ""


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table></div>'


def _bar(share: float, lost: float = 0.0) -> str:
    inside, outside = 100 * min(1.0, share), 100 * min(1.0, lost)
    return (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" height="12" aria-hidden="true">'
        '<rect class="rest" width="100" height="8"/>'
        f'<rect class="in" width="{inside:.2f}" height="8"/>'
        f'<rect class="out" x="{inside:.2f}" width="{outside:.2f}" height="8"/></svg>'
    )


def _text(line: str) -> str:
    """Escape a sentence, and format text between backquotes as code."""
    parts = escape(line).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _percent(share: float) -> str:
    return "0 %" if not share else "under 0.01 %" if share < 0.0001 else f"{100 * share:.3g} %"


def _length(seconds: float) -> str:
    """Format a length of time in a suitable unit."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
