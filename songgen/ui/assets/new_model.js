// New models: the options of the chosen family, and what training a model of the chosen size needs.

import { formatBytes, request, t } from "./page.js";
import "./forms.js";

const preset = document.getElementById("init-preset");
const place = document.getElementById("preset-cost");
let costs = new Map();
let problem = "";

function show() {
  const isFlow = preset.value.startsWith("flow_");
  for (const part of document.querySelectorAll("[data-family]")) part.hidden = (part.dataset.family === "flow") !== isFlow;
  const cost = costs.get(preset.value);
  if (isFlow) {
    place.textContent = t("For trying out the path of ACE-Step models: all weights are random, and its songs are noise.");
  } else if (cost) {
    place.textContent = t("{n} million trained weights. Training all of them takes {all} of memory, an adapter {adapter} (one clip of 30 s, bfloat16, with checkpointing of activations).", {
      n: (cost.trained / 1e6).toFixed(1), all: formatBytes(cost.memory), adapter: formatBytes(cost.adapter_memory),
    });
  } else {
    place.textContent = problem || t("Estimating the memory of each size…");
  }
}

preset.addEventListener("change", show);
show();
try {
  const { presets } = await request("/api/presets", undefined, { seconds: 120 });
  costs = new Map(presets.map((cost) => [cost.name, cost]));
} catch (error) {
  problem = error.message;
}
show();
