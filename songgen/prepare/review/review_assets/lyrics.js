// Lyrics as lines with times. The rules are those of `written_lines` in songgen/prepare/steps/alignment.py: what stands in
// square brackets names a section and is no line, and empty lines do not count.

const BREAKS = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;

export function writtenLines(lyrics) {
  return lyrics.split(BREAKS).flatMap((line) => line.split(/\[[^[\]]*\]/)).map((part) => part.trim()).filter(Boolean);
}

// Carry the times of old lines over to new ones: lines that are the same keep theirs, from both ends; in between, an
// edited line keeps the time of the one that it replaces while as many are left as there were.
export function carryTimes(before, times, after) {
  let head = 0;
  while (head < Math.min(before.length, after.length) && before[head] === after[head]) head += 1;
  let tail = 0;
  const room = Math.min(before.length, after.length) - head;
  while (tail < room && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  const middle = times.slice(head, times.length - tail);
  const wanted = after.length - head - tail;
  const between = after.slice(head, head + wanted).map((line, index) => {
    if (middle.length === wanted) return middle[index];
    const same = before.slice(head, before.length - tail).indexOf(line);
    return same >= 0 ? middle[same] : null;
  });
  return [...times.slice(0, head), ...between, ...times.slice(times.length - tail)];
}
