// Examples and drawings, answered by the chosen network and by the full one.

const $ = (id) => document.getElementById(id);
const PEN = 22; // of 224 pixels

function made(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// A picture of the API on a canvas.
function paint(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const bytes = Uint8Array.from(atob(picture.data), (c) => c.charCodeAt(0));
  const image = new ImageData(picture.width, picture.height);
  for (let i = 0; i < picture.width * picture.height; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = bytes[picture.channels * i + (picture.channels === 3 ? c : 0)];
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function answered(who, answer, style) {
  const right = answer.right === null ? "" : answer.right ? " right" : " wrong";
  const line = made("div", { className: `answer ${style}${right}` },
    made("span", { className: "who", textContent: who }));
  const said = made("span", {}, made("b", { textContent: answer.label }));
  if (answer.right !== null) {
    said.append(made("span", { className: "unseen", textContent: answer.right ? ", right" : ", wrong" }));
  }
  const [top] = answer.top;
  if (top) {
    const sure = `${(100 * top.share).toFixed(top.share < 0.1 ? 1 : 0)} %`;
    const others = answer.top.slice(1).map((c) => `${c.label} ${(100 * c.share).toFixed(1)} %`).join(", ");
    said.append(made("span", { className: "sure", textContent: sure, title: others ? `then ${others}` : "" }));
    const bar = made("i");
    bar.style.width = `${100 * top.share}%`;
    line.append(said, made("span", { className: "bar", ariaHidden: "true" }, bar));
  } else {
    line.append(said);
  }
  return line;
}

export class TryIt {
  // ask: path, options -> answer. timed: told of each choice how long it takes here.
  constructor(ask, timed) {
    this.ask = ask;
    this.timed = timed;
    this.page = 0;
    this.onlyLost = false;
    $("more").addEventListener("click", () => this.turn());
    $("lost").addEventListener("click", () => this.toggle());
    $("clear").addEventListener("click", () => this.clear());
    this.pad = $("pad").getContext("2d", { willReadFrequently: true });
    this.listen();
  }

  // Another run: its first examples, and nothing drawn.
  open(run) {
    this.run = run;
    this.page = 0;
    this.kind = null;
    this.cards = new Map();
    this.choice = null;
    this.press(false);
    $("examples").replaceChildren();
    this.clear();
  }

  wait() {
    this.stop?.abort();
    $("try").setAttribute("aria-busy", "true");
  }

  async choose(choice) {
    this.choice = choice;
    if (this.onlyLost) await this.guarded((signal) => this.showLost(signal));
    else await this.guarded((signal) => this.show(signal));
    if (this.drawn) this.read();
  }

  // One request at a time: what comes too late is dropped.
  async guarded(work) {
    this.stop?.abort();
    const stop = new AbortController();
    this.stop = stop;
    $("try").setAttribute("aria-busy", "true");
    try {
      await work(stop.signal);
      $("try").setAttribute("aria-busy", "false");
    } catch (error) {
      if (error.name === "AbortError") return;
      $("try-note").textContent = error.message;
      $("try").setAttribute("aria-busy", "false");
    }
  }

  async show(signal) {
    if (!this.shown) {
      this.lay(await this.ask(`/api/runs/${this.run.id}/examples?page=${this.page}`, { signal }));
      $("try-note").textContent = this.note;
    }
    await this.answer(signal);
  }

  async showLost(signal) {
    const found = await this.ask(`/api/runs/${this.run.id}/differences/${this.choice.id}`, { signal });
    this.lay(found.examples);
    const gained = found.gained ? `; on ${found.gained} it is right and the full network is not` : "";
    $("try-note").textContent = found.lost
      ? `Of ${found.looked_at} test examples, only the full network is right on ${found.lost}${gained}.`
      : `Of ${found.looked_at} test examples, none is lost${gained}.`;
    await this.answer(signal);
  }

  // The examples' cards, without answers.
  lay(found) {
    this.shown = found.examples;
    this.note = found.note;
    $("pad-part").hidden = !found.can_draw;
    $("examples").classList.toggle("wide", found.kind === "text");
    this.cards = new Map(found.examples.map((example) => [example.id, this.card(example)]));
    $("examples").replaceChildren(...[...this.cards.values()].map((c) => c.item));
  }

  card(example) {
    const what = made("div", { className: "what" });
    const item = made("li");
    if (example.picture) item.append(paint(made("canvas", { className: "picture", ariaHidden: "true" }), example.picture));
    if (example.text) what.append(made("p", { textContent: example.text }));
    if (example.rows.length) {
      const rows = example.rows.map(([name, value]) => made("tr", {}, made("th", { scope: "row", textContent: name }), made("td", { textContent: value })));
      what.append(made("table", {}, made("tbody", {}, ...rows)));
    }
    if (example.label) what.append(made("p", { textContent: `this is ${example.label}` }));
    const answers = made("div");
    what.append(answers);
    item.append(what);
    return { item, answers };
  }

  async answer(signal) {
    const { choice } = this;
    const examples = [...this.cards.keys()];
    const said = await this.post({ point: choice.id, examples }, signal);
    said.pairs.forEach((pair, i) => {
      const card = this.cards.get(examples[i]);
      if (!card) return;
      card.item.classList.toggle("lost", pair.chosen.right === false && pair.full.right === true);
      card.answers.replaceChildren(answered("this", pair.chosen, "chosen"), answered("full", pair.full, ""));
    });
    this.timed(choice, said);
  }

  post(question, signal) {
    return this.ask(`/api/runs/${this.run.id}/predict`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal,
    });
  }

  turn() {
    this.page += 1;
    this.press(false);
    this.guarded((signal) => this.show(signal));
  }

  toggle() {
    this.press(!this.onlyLost);
    this.guarded((signal) => (this.onlyLost ? this.showLost(signal) : this.show(signal)));
  }

  press(only) {
    this.onlyLost = only;
    this.shown = null;
    $("lost").setAttribute("aria-pressed", String(only));
  }

  // Drawing.

  listen() {
    const pad = $("pad");
    const at = (event) => {
      const box = pad.getBoundingClientRect();
      return [(event.clientX - box.left) * (pad.width / box.width), (event.clientY - box.top) * (pad.height / box.height)];
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      this.drawn = true;
      this.pen = at(event);
      this.stroke(this.pen);
    });
    pad.addEventListener("pointermove", (event) => { if (this.pen) this.stroke(at(event)); });
    for (const end of ["pointerup", "pointercancel"]) {
      pad.addEventListener(end, () => { this.pen = null; if (this.drawn) this.read(); });
    }
  }

  stroke(to) {
    Object.assign(this.pad, { strokeStyle: "#fff", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    this.pad.beginPath();
    this.pad.moveTo(...this.pen);
    this.pad.lineTo(...to);
    this.pad.stroke();
    this.pen = to;
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.read(), 120);
  }

  clear() {
    clearTimeout(this.soon);
    this.drawn = false;
    this.pad.fillStyle = "#000";
    this.pad.fillRect(0, 0, 224, 224);
    $("pad-result").replaceChildren();
    $("seen-part").hidden = true;
    $("pad-hint").hidden = false;
  }

  // Half the pixels, each the mean of four: enough for any network of small digits.
  drawing() {
    const { data } = this.pad.getImageData(0, 0, 224, 224);
    const value = (x, y) => data[4 * (224 * y + x)];
    return Array.from({ length: 112 }, (_, y) => Array.from({ length: 112 }, (_, x) => Math.round(
      (value(2 * x, 2 * y) + value(2 * x + 1, 2 * y) + value(2 * x, 2 * y + 1) + value(2 * x + 1, 2 * y + 1)) / 4)));
  }

  async read() {
    clearTimeout(this.soon);
    const turn = (this.reading = {});
    try {
      const said = await this.post({ point: this.choice.id, drawing: this.drawing() });
      if (turn !== this.reading || !this.drawn) return;
      const [pair] = said.pairs;
      $("pad-result").replaceChildren(answered("this one", pair.chosen, "chosen"), answered("the full one", pair.full, ""));
      paint($("seen"), said.seen);
      $("seen-part").hidden = false;
      $("pad-hint").hidden = true;
    } catch (error) {
      $("pad-result").textContent = error.message;
    }
  }
}
