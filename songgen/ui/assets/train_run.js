// The page of a run: state, banners, progress and console, kept up to date. Commands, curves and results have modules
// of their own.

import { act, badgeClass, el, formatBytes, formatCount, formatDuration, formatNumber, formatTime, poll, request, setText, t } from "./page.js";
import { showCommands } from "./train_commands.js";
import { followCurves } from "./train_curves.js";
import { notice } from "./train_health.js";
import { followResults } from "./train_results.js";

const byId = (id) => document.getElementById(id);
const folder = byId("run").dataset.folder;
const path = `/api/train/runs/${encodeURIComponent(folder)}`;

function banner(kind, title, ...lines) {
  return el("div", { class: `notice ${kind}` }, el("strong", {}, title), ...lines.filter(Boolean).map((line) => el("p", {}, line)));
}

/** Returns what to do about a failure: the keys to change first, as they are in the configuration. */
function remedies(diagnosis) {
  return el("ol", {}, ...diagnosis.remedies.map((remedy) => {
    const changes = Object.entries(remedy.changes).map(([key, value]) => t("{key}: {value} (now {now})", {
      key, value: JSON.stringify(value), now: JSON.stringify(remedy.now[key]),
    }));
    return el("li", {}, changes.length ? el("code", {}, changes.join(", ")) : null, changes.length ? ` – ${remedy.effect}` : remedy.effect);
  }));
}

const starting = () => banner("", t("The run is starting"), t("Its folder appears when the processes have joined; the console shows what they do."));
const notStarted = (job) => banner("bad", t("The run did not start"), job.reason, t("The console says why. Change the configuration, and start it again."));

/** Returns whether the run was to be resumed, and the command failed before it trained: the status is of the time before. */
const hasNotResumed = (run) => ["failed", "lost"].includes(run.job?.state) && run.ended !== null && run.job.created > run.ended;

function banners(run) {
  const resume = t("Its checkpoints are unharmed: resume the run below.");
  if (!run.is_there) {
    if (!run.job) return [banner("bad", t("The run is not there any more"), t("Its folder was moved or deleted. If you moved it, open it from the list of all runs."))];
    return run.job.is_active
      ? [starting()]
      : [notStarted(run.job)];
  }
  if (run.state !== "running" && run.job?.is_active) return [starting()];
  if (hasNotResumed(run)) return [notStarted(run.job)];
  if (run.state === "failed" && run.is_killed && run.job?.state === "stopped") {
    return [banner("warn", t("The run was ended at once, as you asked"), t("Steps after its last checkpoint are lost."), resume)];
  }
  if (run.state === "failed" && run.is_killed) {
    return [run.is_disk_full
      ? banner("bad", t("The run was killed, and its disk is full"), t("Free space on the disk of the output folder first."), resume)
      : banner("bad", t("The run was killed without a message"), t("By kill -9, by the system because main memory was used up, or by a power cut."), resume)];
  }
  if (run.state === "failed") {
    const found = banner("bad", run.diagnosis?.title ?? t("The run failed"), run.reason);
    if (run.diagnosis) found.append(el("p", {}, t("Change first:")), remedies(run.diagnosis), el("p", { class: "soft" }, t("More in {files} in the folder of the run.", { files: run.diagnosis.logs.join(", ") })));
    else found.append(el("p", {}, t("The console below says more.")));
    return [found];
  }
  return [...(run.state === "finished" ? [finished(run)] : []), ...warnings(run)];
}

/** Returns what to do with a run that has ended as planned. */
function finished(run) {
  const model = `/models/${encodeURIComponent(folder)}`;
  const links = [el("a", { href: `/listen?model=${encodeURIComponent(folder)}` }, t("Listen to it"))];
  if (run.is_adapter) links.push(el("a", { href: `${model}#compare` }, t("Compare with its base")));
  links.push(el("a", { href: model }, t("Export, details")));
  return el("div", { class: "notice good" }, el("strong", {}, t("The run is finished")), el("p", { class: "row" }, ...links));
}

/** Returns what does not end a run, and should be known. */
function warnings(run) {
  const found = [];
  const { not_finite: skipped, spikes } = run.anomalies;
  if (isSilent(run)) {
    found.push(banner("warn", t("No step since {time}", { time: formatTime(run.since) }), t("The run is still at: {doing}. An evaluation or the first step may take long; if it does not continue, see the console.", { doing: run.doing })));
  }
  if (run.disk?.is_low) {
    found.push(banner("warn", t("The disk is nearly full: {size} free", { size: formatBytes(run.disk.free) }), run.disk.checkpoint ? t("A checkpoint takes {size}. Free space, or the next one cannot be saved.", { size: formatBytes(run.disk.checkpoint) }) : t("Free space, or no checkpoint can be saved.")));
  }
  if (skipped) found.push(banner("warn", t("Steps whose loss or gradients were not finite: {n}, the last one at step {step}", { n: skipped.count, step: skipped.step ?? "?" }), t("Their updates were skipped. Their clips are in {file}.", { file: skipped.file })));
  if (spikes) found.push(banner("warn", t("Loss spikes: {n}, the last one at step {step}", { n: spikes.count, step: spikes.step ?? "?" }), t("The loss was far above the recent ones. The clips of these steps are in {file}.", { file: spikes.file })));
  return found;
}

/** Returns whether a run has been at one activity for two minutes. By the server's clock: a browser's may differ. */
function isSilent(run) {
  return run.state === "running" && Boolean(run.doing) && run.since !== null && run.now - run.since > 120;
}

let shownBanner = "";

function showState(run) {
  const state = run.is_there ? run.state : run.job?.state ?? "lost";
  setText(byId("state"), t(state));
  byId("state").className = badgeClass(state);
  // Only when it changes: a reader of the screen would read an alert again.
  const key = JSON.stringify([run.is_there, state, run.job?.id, run.job?.state, run.started, run.reason, run.diagnosis, run.is_disk_full, isSilent(run) && run.since, run.anomalies, run.disk?.is_low, run.is_adapter]);
  // A run that has not written its own configuration: the file that it was started with.
  if (!run.is_there && run.config) byId("its-configuration").href = `/configure?config=${encodeURIComponent(run.config)}`;
  if (key !== shownBanner) byId("banners").replaceChildren(...banners(run));
  shownBanner = key;
  document.title = `${run.step !== null && run.total_steps ? `${Math.floor((100 * run.step) / run.total_steps)} % · ` : ""}${folder} · songgen`;
}

function milestoneText(milestone, step, total) {
  const name = { loss: t("loss {value}", { value: milestone.value }), accuracy: t("accuracy {value}", { value: milestone.value }) }[milestone.metric] ?? `${milestone.metric} ${milestone.value}`;
  if (milestone.early === null) return name;
  const early = Math.max(step + 1, Math.round(milestone.early));
  if (early > total) return t("{name}: not within this run", { name });
  const late = milestone.late === null ? null : Math.round(milestone.late);
  return late === null || late > total
    ? t("{name}: step {early} or later", { name, early: formatCount(early) })
    : t("{name}: step {early} to {late}", { name, early: formatCount(early), late: formatCount(Math.max(early, late)) });
}

function showProgress(run) {
  const progress = run.progress;
  byId("progress").max = run.total_steps || 1;
  byId("progress").value = run.step ?? 0;
  const isRunning = run.state === "running";
  const figures = [[t("Step"), run.step === null || run.step === undefined ? "–" : `${formatCount(run.step)} / ${run.total_steps ? formatCount(run.total_steps) : "?"}`]];
  if (progress) {
    if (progress.epoch !== null) {
      figures.push([t("Epoch"), `${formatNumber(progress.epoch)} / ${formatNumber(progress.num_epochs)}`]);
      figures.push([t("Step of the epoch"), `${progress.step_in_epoch} / ${progress.steps_in_epoch}`]);
    }
    figures.push([t("Loss"), formatNumber(progress.loss)], [t("Learning rate"), formatNumber(progress.learning_rate)]);
    figures.push([t("Speed"), t("{n} steps/s, {m} epochs/h", { n: formatNumber(progress.steps_per_second || null), m: formatNumber(progress.epochs_per_hour || null) })]);
    if (isRunning) figures.push([t("Time left"), progress.seconds_left === null ? "–" : formatDuration(progress.seconds_left)]);
    if (isRunning) for (const milestone of progress.milestones) figures.push([t("Next milestone"), milestoneText(milestone, progress.step, progress.total_steps)]);
  }
  const { latest } = run; // of a run without a progress file: from the end of its metrics
  if (latest.epoch !== undefined) figures.push([t("Epoch"), formatNumber(latest.epoch)]);
  if (latest.loss !== undefined) figures.push([t("Loss"), formatNumber(latest.loss)]);
  if (latest.learning_rate !== undefined) figures.push([t("Learning rate"), formatNumber(latest.learning_rate)]);
  if (isRunning && run.doing) figures.push([t("Now"), run.doing]);
  if (run.started) figures.push([t("Started"), formatTime(run.started)]);
  if (run.ended) figures.push([t("Ended"), formatTime(run.ended)]);
  byId("figures").replaceChildren(...figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

async function showConsole() {
  const { lines, job } = await request(`${path}/console?lines=${byId("console-lines").value}&only=${byId("console-only").value}`);
  const box = byId("console");
  const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  const text = lines.join("\n") || t("Nothing has been printed.");
  setText(box, text);
  if (isAtEnd) box.scrollTop = box.scrollHeight;
  byId("job-link").hidden = !job;
  if (job) byId("job-link").href = `/jobs/${encodeURIComponent(job)}`;
}

let health = [];
let checkpoints = null; // until they have been asked for
let shownHealth = "";

function showHealth() {
  const text = JSON.stringify([health, checkpoints]);
  if (text === shownHealth) return; // else it would be read aloud again with every line of metrics
  shownHealth = text;
  byId("health").replaceChildren(...health.map((finding) => notice(finding, checkpoints)));
}

const curves = followCurves(folder, JSON.parse(byId("run").dataset.others), (found) => { health = found; showHealth(); });
const results = followResults(folder, path, (found) => { checkpoints = found; showHealth(); });

poll(async () => {
  const run = await request(path);
  showState(run);
  showProgress(run);
  showCommands(run, path);
  results.state(run);
  curves.milestones(run.state === "running" ? run.progress?.milestones ?? [] : []);
  const button = byId("end-job");
  button.hidden = !run.job?.is_active;
  button.onclick = () => confirm(t("End the run at once? Steps after its last checkpoint are lost.")) && act(button, () => request(`/api/jobs/${encodeURIComponent(run.job.id)}/stop`, { kill: true }));
}, 1.5);
poll(showConsole, 2);
byId("console-lines").onchange = byId("console-only").onchange = () => showConsole().catch(() => {});
