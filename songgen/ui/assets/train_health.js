// What the evaluations of a run say (songgen/ui/training/health.py), in words.

import { el, formatCount, formatNumber, t } from "./page.js";

/** Returns the word for a track in the name of a metric or song. */
export function trackWord(track) {
  return { mix: t("mix"), vocal: t("vocals"), acc: t("accompaniment") }[track] ?? track;
}

const percent = (share) => formatNumber(100 * share);

/** Returns the name of a part, such as "vocals: codebook 0". */
function partName(part) {
  const [name, ...tracks] = part.split("/").reverse();
  const [, kind, n] = name.match(/^(codebook|band)_?(\d+)$/) ?? [];
  const word = { codebook: t("codebook {n}", { n }), band: t("band {n}", { n }) }[kind] ?? name;
  return [...tracks.reverse().map(trackWord), word].join(": ");
}

function sentence(finding) {
  const step = formatCount(finding.step);
  const track = trackWord(finding.track);
  return {
    falling: t("The loss on held-out clips is still falling."),
    flat: t("The loss on held-out clips has hardly changed in the latest evaluations (lowest at step {step}).", { step }),
    rising: t("The loss on held-out clips has risen since step {step}: it is now {ratio} times its lowest. The model has become worse at clips that it is not trained on.", { step, ratio: formatNumber(finding.ratio) }),
    track_rising: t("{track}: the loss on held-out clips has risen since step {step}, to {ratio} times its lowest.", { track, step, ratio: formatNumber(finding.ratio) }),
    track_lagging: t("{track} lags behind: its loss on held-out clips has fallen by {n} % since step {step}, that of {other} by {m} %.", {
      track, step, n: percent(finding.fall), other: trackWord(finding.other), m: percent(finding.other_fall),
    }),
    parts_rising: t("The loss on held-out clips rises for {parts}.", { parts: finding.parts.map(partName).join(", ") }),
  }[finding.kind];
}

const KINDS = { falling: "good", flat: "", rising: "warn", track_rising: "warn", track_lagging: "", parts_rising: "" };

/** Returns the notice of a finding, with a link to the checkpoint of the lowest loss if it is there; `checkpoints` may be null. */
export function notice(finding, checkpoints) {
  const box = el("p", { class: `notice ${KINDS[finding.kind]}` }, sentence(finding));
  if (finding.kind === "rising" && checkpoints !== null) {
    const best = checkpoints.find((checkpoint) => !checkpoint.problem && checkpoint.step === finding.step);
    if (best) box.append(" ", t("The best checkpoint is {name}.", { name: best.name }), " ", el("a", { href: `/listen?model=${encodeURIComponent(best.folder)}` }, t("Listen to it")));
    else box.append(" ", t("No checkpoint of that step is there."));
  }
  return box;
}
