// The curve: every network as a dot, the best for each budget as a line, the chosen one marked.
//
//   const chart = new Chart(svg, {onPoint: (x) => ...});   // x: where the pointer is, in units of x
//   chart.draw({dots, line, picks, x, y, share});         // once for each run, mode and width
//   chart.mark(dot, {x: limit} or {y: limit});            // as the slider moves: moves four things

const SPACE = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// Round numbers between low and high: of a logarithmic scale 1, 2, 5 of every decade.
export function logTicks(low, high, most) {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const step of steps) found.push(step * 10 ** e);
    }
    const inside = found.filter((t) => t >= low * 0.999 && t <= high * 1.001);
    if (inside.length <= most && inside.length > 1) return inside;
  }
  return [low, high];
}

export function linearTicks(low, high, most) {
  const rough = (high - low) / most || 1;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= rough);
  const ticks = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) ticks.push(t);
  return ticks;
}

export class Chart {
  constructor(svg, { onPoint }) {
    this.svg = svg;
    const style = getComputedStyle(document.documentElement);
    this.left = parseFloat(style.getPropertyValue("--pad-left"));
    this.right = parseFloat(style.getPropertyValue("--pad-right"));
    const moved = (event) => {
      if (event.type !== "pointerdown" && !(event.buttons & 1)) return;
      const at = event.clientX - svg.getBoundingClientRect().left;
      const share = (at - this.left) / (this.width - this.left - this.right);
      onPoint(Math.min(1, Math.max(0, share)));
    };
    svg.addEventListener("pointerdown", moved);
    svg.addEventListener("pointermove", moved);
  }

  // data: {dots, rings: [{x, y, title}], line: [{x, y}], picks: [{x, y, name}], xRange, yTick, xTick}
  draw(data) {
    this.width = this.svg.clientWidth;
    this.height = this.svg.clientHeight;
    this.bottom = this.height - 34;
    this.top = 14;
    this.xRange = data.xRange;
    const [first, last] = data.xRange;
    const ys = data.dots.map((d) => d.y);
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const margin = 0.05 * (high - low || Math.abs(high) || 1);
    this.yRange = [low - margin, high + margin];
    this.higher = data.higher;
    const parts = [...this.axes(data), ...this.shape(data)];
    for (const ring of data.rings.filter((r) => first <= r.x && r.x <= last && this.yRange[0] <= r.y && r.y <= this.yRange[1])) {
      const made = element("circle", { class: "ring", r: 2.5, cx: this.x(ring.x), cy: this.y(ring.y) });
      made.append(element("title", {}, ring.title));
      parts.push(made);
    }
    for (const dot of data.dots) {
      const made = element("circle", { class: "dot", r: data.dots.length > 200 ? 2 : 3.5, cx: this.x(dot.x), cy: this.y(dot.y) });
      made.append(element("title", {}, dot.title));
      parts.push(made);
    }
    this.veil = element("rect", { class: "veil" });
    this.limit = element("line", { class: "limit" });
    this.halo = element("circle", { class: "halo", r: 16 });
    this.dot = element("circle", { class: "mark", r: 8 });
    this.svg.replaceChildren(...parts, this.veil, ...this.picks(data.picks), this.limit, this.halo, this.dot);
  }

  x(value) {
    const [low, high] = this.xRange.map(Math.log);
    const share = high > low ? (Math.log(value) - low) / (high - low) : 0.5;
    return this.left + share * (this.width - this.left - this.right);
  }

  y(value) {
    const [low, high] = this.yRange;
    const share = (value - low) / (high - low);
    return this.bottom - (this.higher ? share : 1 - share) * (this.bottom - this.top);
  }

  axes(data) {
    const parts = [];
    for (const t of linearTicks(...this.yRange, 5)) {
      const y = this.y(t);
      parts.push(element("line", { class: "grid", x1: this.left, x2: this.width - this.right, y1: y, y2: y }));
      parts.push(element("text", { x: this.left - 8, y: y + 4, "text-anchor": "end" }, data.yTick(t)));
    }
    for (const t of logTicks(...this.xRange, this.width < 480 ? 4 : 8)) {
      const x = this.x(t);
      const anchor = x > this.width - 30 ? "end" : "middle";
      parts.push(element("line", { class: "grid", x1: x, x2: x, y1: this.bottom, y2: this.bottom + 5 }));
      parts.push(element("text", { x, y: this.bottom + 20, "text-anchor": anchor }, data.xTick(t)));
    }
    return parts;
  }

  // The line of the best: what is best stays so until something larger is better.
  shape(data) {
    const end = this.x(this.xRange[1]);
    let path = "";
    data.line.forEach((point, i) => {
      const [x, y] = [this.x(point.x), this.y(point.y)];
      path += i ? `H${x}V${y}` : `M${x},${y}`;
    });
    path += `H${end}`;
    const below = `${path}V${this.bottom}H${this.x(data.line[0].x)}Z`;
    return [element("path", { class: "band", d: below }), element("path", { class: "line", d: path })];
  }

  picks(picks) {
    const parts = [];
    for (const pick of picks) {
      const [x, y] = [this.x(pick.x), this.y(pick.y)];
      const mark = element("path", { class: "pick", d: `M${x},${y - 7}l7,7l-7,7l-7,-7Z` });
      mark.append(element("title", {}, pick.name));
      parts.push(mark);
      if (picks.length > 6) continue;
      const late = x > this.width - 90;
      const at = { class: "name", x: late ? x - 8 : x + 9, y: y + 20, "text-anchor": late ? "end" : "start" };
      parts.push(element("text", at, pick.name));
    }
    return parts;
  }

  // dot: what is chosen, {x, y}. limit: {x} or {y}, what is not allowed is faded beyond it.
  mark(dot, limit) {
    const [x, y] = [this.x(dot.x), this.y(dot.y)];
    for (const circle of [this.dot, this.halo]) circle.setAttribute("transform", `translate(${x},${y})`);
    const set = (target, values) => Object.entries(values).forEach(([k, v]) => target.setAttribute(k, v));
    const end = this.width - this.right + 8;
    if (limit.x !== undefined) {
      const at = this.x(limit.x);
      set(this.limit, { x1: at, x2: at, y1: this.top - 8, y2: this.bottom });
      set(this.veil, { x: at, y: 0, width: Math.max(0, end - at), height: this.bottom });
    } else {
      const at = this.y(limit.y);
      set(this.limit, { x1: this.left, x2: end, y1: at, y2: at });
      set(this.veil, { x: this.left, y: at, width: end - this.left, height: Math.max(0, this.bottom - at) });
    }
  }
}
