// Settings: the machine, which takes seconds to look at.

import { el, formatBytes, request, t } from "./page.js";

const list = document.getElementById("machine");
const fact = (name, text) => [el("dt", {}, name), el("dd", {}, text)];
try {
  const machine = await request("/api/machine", undefined, { seconds: 120 });
  const of = (free, total) => t("{free} of {total} free", { free: formatBytes(free), total: formatBytes(total) });
  list.replaceChildren(
    ...machine.devices.flatMap((device, index) => fact(`GPU ${index}`, `${device.name}, ${of(device.free, device.total)}`)),
    ...(machine.devices.length ? [] : fact("GPU", t("none: the processor computes"))),
    ...fact(t("Cores"), String(machine.cores)),
    ...fact(t("Main memory"), of(machine.free_memory, machine.memory)),
  );
} catch (error) {
  list.replaceChildren(...fact(t("Status"), error.message));
}
