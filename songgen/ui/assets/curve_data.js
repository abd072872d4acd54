// Curves of runs as they arrive from the server: in parts, put together here.

/** The curves of one run. */
export class RunCurves {
  constructor(folder) {
    Object.assign(this, { folder, key: "", lines: 0, curves: new Map(), axes: new Map(), state: null });
  }

  /** Takes an answer of the server; returns whether something has changed. */
  take(answer) {
    if (answer.key !== this.key) {
      this.curves.clear();
      this.axes.clear();
    }
    Object.assign(this, { key: answer.key, lines: answer.lines, state: answer });
    for (const [kind, parts] of [[this.curves, answer.curves], [this.axes, answer.axes]]) {
      for (const [name, part] of Object.entries(parts)) kind.set(name, merged(part.from ? kind.get(name) : null, part));
    }
    return Object.keys(answer.curves).length > 0;
  }

  /** Returns where steps are on an axis: the steps themselves, epochs, or hours since the beginning. */
  places(steps, axis) {
    const curve = this.axes.get(axis);
    if (!curve) return steps;
    const first = axis === "time" ? curve.values[0] : 0;
    const scale = axis === "time" ? 1 / 3600 : 1;
    return steps.map((step) => (between(curve.steps, curve.values, step) - first) * scale);
  }

  /** Returns the step of a place on an axis. */
  stepAt(place, axis) {
    const curve = this.axes.get(axis);
    if (!curve) return place;
    const value = axis === "time" ? place * 3600 + curve.values[0] : place;
    return between(curve.values, curve.steps, value);
  }
}

function merged(old, part) {
  const curve = { last: part.last };
  for (const column of ["steps", "values", "low", "high"]) {
    if (part[column]) curve[column] = [...(old?.[column]?.slice(0, part.from) ?? []), ...part[column]];
  }
  return curve;
}

/** Returns the height of a polygon at x; beyond its ends it goes on straight. */
export function between(xs, ys, x) {
  if (xs.length < 2) return ys[0] ?? x;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  const width = xs[high] - xs[low];
  return width ? ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / width : ys[low];
}

/** Returns the exponential mean of values, without its bias at the beginning. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let scale = 0;
  return values.map((value) => {
    sum = sum * weight + (1 - weight) * value;
    scale = scale * weight + (1 - weight);
    return sum / scale;
  });
}
