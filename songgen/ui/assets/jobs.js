// Panels of jobs: state, output and buttons of each element with `data-job`, kept up to date.

import { act, badgeClass, formatDuration, formatTime, poll, request, setText, t } from "./page.js";

/** Keeps a panel up to date until its job has ended; `onState` and listeners of the event `job` get each state, the last one once. */
export function watchJob(panel, onState = () => {}) {
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const log = part("log");
  let hasEnded = false; // the output may be asked for again then, with another number of lines
  const path = `/api/jobs/${encodeURIComponent(panel.dataset.job)}`;
  for (const button of panel.querySelectorAll("[data-action]")) {
    const isKill = button.dataset.action === "kill";
    button.onclick = () => (!isKill || confirm(t("End the command at once? What it has not saved is lost."))) && act(button, () => request(`${path}/stop`, { kill: isKill }));
  }
  const update = async () => {
    const answer = await request(`${path}?lines=${part("lines").value}`).catch((error) => {
      if (error.status !== 422) throw error; // the server is away; it is asked again
      return { gone: error.message };
    });
    if (answer.gone) {
      part("state").textContent = t("removed");
      part("state").className = "badge";
      part("reason").textContent = answer.gone;
      part("reason").hidden = false;
      for (const button of panel.querySelectorAll("[data-action]")) button.hidden = true;
      return false;
    }
    const { job, log: output } = answer;
    setText(part("state"), t(job.state));
    part("state").className = badgeClass(job.state);
    const end = job.ended ?? Date.now() / 1000;
    part("when").textContent = `${formatTime(job.created)} · ${formatDuration(end - job.created)}`;
    part("command").textContent = `$ ${job.command}`;
    part("reason").hidden = !job.reason;
    part("reason").textContent = job.reason;
    const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    setText(log, output.text);
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    for (const button of panel.querySelectorAll("[data-action]")) button.hidden = !job.is_active;
    if (!hasEnded) {
      hasEnded = !job.is_active;
      onState(job);
      panel.dispatchEvent(new CustomEvent("job", { detail: job, bubbles: true }));
    }
    return job.is_active;
  };
  part("lines").onchange = () => update().catch(() => {});
  return poll(update, 1.5);
}

for (const panel of document.querySelectorAll("[data-job]")) {
  if (panel.dataset.job) watchJob(panel);
}
