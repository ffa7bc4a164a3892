const data = JSON.parse(document.getElementById("data").textContent);
const [H, W] = data.grid, L = data.answers[0].layers.length;
const find = (id) => document.getElementById(id);
const last = data.answers.length - 1;
const state = {layer: firstLayer(last), side: last};

function firstLayer(side) {
  const layers = data.answers[side].layers;
  const best = layers.find((one) => one.action === "expand") || layers.find((one) => one.action) || layers[L - 1];
  return best.layer;
}

function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const side = Number(wanted.get("side") ?? state.side), layer = Number(wanted.get("layer") ?? state.layer);
  if (Number.isInteger(side) && side >= 0 && side <= last) state.side = side;
  if (Number.isInteger(layer) && layer >= 0 && layer < L) state.layer = layer;
}

function go(change) {
  Object.assign(state, change);
  state.layer = Math.min(L - 1, Math.max(0, state.layer));
  if (location.protocol !== "about:")  // a page inside another has no address of its own
    history.replaceState(null, "", `#layer=${state.layer}&side=${state.side}`);
  show();
}

const number = (value, digits = 2) => value.toFixed(digits);
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}\u00a0%`;

function place(region, patches) {
  if (patches !== 2) return `row ${Math.floor(region / patches) + 1}, column ${region % patches + 1} of ${patches} x ${patches}`;
  return ["top left", "top right", "bottom left", "bottom right"][region];
}

function sentence(answer, one) {
  const where = (region) => `egion ${region} (${place(region, answer.patches)})`;
  if (!one.action) {
    const hottest = `The hottest is r${where(one.region)}, with a ratio of ${number(one.ratio, 3)}.`;
    return [answer.thresholds ? "Not scanned." : "The backbone as it is.", hottest];
  }
  const [above, below] = answer.thresholds, had = one.layer > 0 && answer.layers[one.layer - 1].extension;
  const done = {
    expand: `R${where(one.acted)} is expanded${had ? ", in place of the earlier extension" : ""}.`,
    keep: had ? "The extension stays." : "Nothing changes.",
    drop: had ? "The extension is dropped." : "There is no extension to drop.",
  }[one.action];
  const why = {
    expand: `The ratio of ${number(one.ratio, 3)} is above ${number(above)}.`,
    keep: `The ratio of ${number(one.ratio, 3)} calls for nothing: expand is above ${number(above)}, drop below ${number(below)}.`,
    drop: `The ratio of ${number(one.ratio, 3)} is below ${number(below)}.`,
  }[one.action];
  const reason = answer.schedule === "threshold" ? why : `Drawn by schedule=${answer.schedule}; the ratio is ${number(one.ratio, 3)}.`;
  return [reason, done];
}

function show() {
  const answer = data.answers[state.side], one = answer.layers[state.layer];
  document.body.dataset.layer = state.layer;
  document.body.dataset.side = state.side;
  find("layer").value = state.layer;
  find("layer").setAttribute("aria-valuetext", `layer ${state.layer}${one.action ? ", " + one.action : ""}`);
  find("layer-name").textContent = `Layer ${state.layer}`;
  document.querySelectorAll("input[name=side]").forEach((input, n) => { input.checked = n === state.side; });
  showPicture(answer, one);
  showAttention(answer, one);
  showExtension(answer, one);
  showFacts(answer, one);
  showStrip(answer);
  drawCharts();
}

function mark(svg, answer, one, withBox) {
  svg.replaceChildren();
  for (let n = 1; n < answer.patches; n++) {
    const [y, x] = answer.cuts.map((cuts) => 100 * cuts[n]);
    for (const line of [{x1: x, x2: x, y1: 0, y2: 100}, {x1: 0, x2: 100, y1: y, y2: y}])
      svg.append(make("line", {...line, stroke: "#fff", "stroke-opacity": 0.75, "stroke-width": 1, "vector-effect": "non-scaling-stroke"}));
  }
  if (withBox && data.box) outline(svg, data.box.map((edge) => 100 * edge), COLOURS.right, "", 2, "box");
  const action = one.action || "none";
  const region = one.action ? one.acted : one.region;
  outline(svg, cell(region, answer), COLOURS[action] || "#5a6069", DASHES[action] ?? "1 3", 3, "region");
  svg.lastChild.dataset.region = region;
  svg.lastChild.dataset.action = action;
}

function showPicture(answer, one) {
  mark(find("picture-marks"), answer, one, true);
  const words = {expand: "expanded", keep: "hottest, nothing done", drop: "hottest, extension dropped"};
  const region = one.action ? one.acted : one.region;
  find("picture-caption").textContent =
    `Outlined: region ${region} (${place(region, answer.patches)}), ${words[one.action] || "hottest"}.` +
    (data.box ? " Green: what the question is about." : "");
}

function showAttention(answer, one) {
  paint(find("attention"), one.saliency, H, W, true);
  mark(find("attention-marks"), answer, one, false);
}

function showExtension(answer, one) {
  const living = one.extension, crop = find("crop"), heat = find("extension"), none = find("no-extension");
  crop.hidden = heat.hidden = !living;
  none.hidden = Boolean(living);
  if (!living) {
    none.textContent = answer.thresholds ? "no extension lives in this layer" : "answered without Blink";
    find("extension-caption").textContent = "Attention on the extension.";
    return;
  }
  const [birth, region] = living, [left, top, width, height] = cell(region, answer);
  const rows = one.extended.length === H * W ? H : Math.round(H * height / 100), columns = one.extended.length / rows;
  const image = crop.firstElementChild;
  image.style.width = `${1e4 / width}%`;
  image.style.height = `${1e4 / height}%`;
  image.style.left = `${-100 * left / width}%`;
  image.style.top = `${-100 * top / height}%`;
  paint(heat, one.extended, rows, columns, true);
  find("extension-caption").textContent =
    `Attention on the extension: ${rows} x ${columns} tokens of region ${region}, made at layer ${birth}.`;
}

function showFacts(answer, one) {
  const [first, second] = sentence(answer, one);
  find("fact-title").replaceChildren(`Layer ${one.layer} of 0 to ${L - 1} `);
  if (one.action) find("fact-title").append(make("span", {class: `badge ${one.action}`}, one.action));
  find("fact-sentence").textContent = `${first} ${second}`;
  find("fact-length").textContent = `${one.columns} tokens` + (one.extended.length ? `, ${one.extended.length} of them the extension` : "");
  const right = answer.right;
  find("fact-right-name").hidden = find("fact-right").hidden = right === null;
  if (right !== null)
    find("fact-right").textContent = `${right} (${place(right, answer.patches)}), ${one.region === right ? "the hottest" : "not the hottest"}`;
  find("fact-top").textContent = `“${one.top.text}” ${percent(one.top.probability)}`;
  find("fact-words").textContent = data.watched.map((text, n) => `“${text}” ${percent(one.words[n])}`).join(", ");
  const bar = find("shares"), names = find("share-names");
  bar.replaceChildren();
  names.replaceChildren();
  for (const [name, share] of Object.entries(one.shares)) {
    if (!share && (name === "tiles" || name === "extension")) continue;
    bar.append(make("span", {style: `width:${100 * share}%;background:var(--${name})`, title: `${name} ${percent(share)}`}));
    names.append(make("span", {"data-share": name}, [make("i", {style: `background:var(--${name})`}), `${name} ${percent(share)}`]));
  }
}

const GLYPHS = {expand: "▲", keep: "■", drop: "▽"};

function showStrip(answer) {
  const strip = find("strip");
  if (strip.dataset.side !== String(state.side)) {
    strip.dataset.side = state.side;
    strip.replaceChildren(...answer.layers.map((one) => {
      const canvas = make("canvas"), svg = make("svg", {viewBox: "0 0 100 100", preserveAspectRatio: "none"});
      paint(canvas, one.saliency, H, W);
      const action = one.action || "none", [x, y, width, height] = cell(one.action ? one.acted : one.region, answer);
      svg.append(make("rect", {x: x + 3, y: y + 3, width: width - 6, height: height - 6, fill: "none", stroke: "#fff", "stroke-width": 2,
        "stroke-dasharray": DASHES[action] ?? "1 3", "vector-effect": "non-scaling-stroke"}));
      const map = make("span", {class: "map", style: `aspect-ratio:${data.picture.width}/${data.picture.height}`}, [canvas, svg]);
      const label = make("span", one.action ? {class: one.action} : {}, `${one.layer}${one.action ? " " + GLYPHS[one.action] : ""}`);
      const button = make("button", {type: "button", "aria-label": `layer ${one.layer}${one.action ? ", " + one.action : ""}`}, [map, label]);
      button.addEventListener("click", () => go({layer: one.layer}));
      return button;
    }));
  }
  [...strip.children].forEach((button, n) => button.setAttribute("aria-pressed", n === state.layer));
}

const LEFT = 46, RIGHT = 130, WIDTH = 1100, STEP = (WIDTH - LEFT - RIGHT) / L;
const at = (layer) => LEFT + (layer + 0.5) * STEP;

function frame(svg, height, ticks, y, title) {
  svg.replaceChildren(make("title", {}, title));
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height + 22}`);
  for (const layer of Array(L).keys()) {
    if (data.answers[state.side].layers[layer].action)
      svg.append(make("rect", {x: at(layer) - STEP / 2, y: 0, width: STEP, height, fill: "#f0f1f4"}));
    if (L <= 20 || layer % 2 === 0 || layer === state.layer)
      svg.append(make("text", {x: at(layer), y: height + 16, "text-anchor": "middle", class: layer === state.layer ? "" : "dim",
        "font-weight": layer === state.layer ? 700 : 400}, String(layer)));
  }
  svg.append(make("rect", {x: at(state.layer) - STEP / 2, y: 0, width: STEP, height, fill: "#ffe9a8", "fill-opacity": 0.6, "data-kind": "cursor"}));
  for (const tick of ticks) {
    svg.append(make("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), stroke: "#e3e5e9"}));
    svg.append(make("text", {x: LEFT - 7, y: y(tick) + 4, "text-anchor": "end", class: "dim"}, String(tick)));
  }
}

function curve(svg, points, stroke, dash, width) {
  const path = points.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  svg.append(make("path", {d: path, fill: "none", stroke, "stroke-width": width, "stroke-dasharray": dash, "stroke-linejoin": "round"}));
}

// Names at the right end of lines, moved apart where lines end close together.
function endLabels(svg, labels, height) {
  const sorted = labels.sort((a, b) => a.y - b.y);
  sorted.forEach((label, n) => { label.y = Math.max(label.y, n ? sorted[n - 1].y + 14 : 8); });
  const over = sorted.length ? sorted[sorted.length - 1].y - height : 0;
  for (const label of sorted)
    svg.append(make("text", {x: WIDTH - RIGHT + 8, y: label.y - Math.max(0, over) + 4, fill: label.fill, style: `fill:${label.fill}`}, label.text));
}

function glyph(svg, action, x, y) {
  const fill = action === "drop" ? "#fff" : COLOURS[action], size = 5.5;
  const shape = {
    expand: `M${x} ${y - size}L${x + size} ${y + size}L${x - size} ${y + size}Z`,
    keep: `M${x - 4.5} ${y - 4.5}h9v9h-9Z`,
    drop: `M${x} ${y + size}L${x + size} ${y - size}L${x - size} ${y - size}Z`,
  }[action];
  svg.append(make("path", {d: shape, fill, stroke: COLOURS[action], "stroke-width": 1.6, "data-kind": action}));
}

function drawRatio() {
  const svg = find("ratio-chart"), height = 190, y = (value) => height - 6 - value * (height - 14);
  frame(svg, height, [0, 0.25, 0.5, 0.75, 1], y, "Saliency ratio of every layer");
  const selected = data.answers[state.side], labels = [];
  const lines = [[1 / selected.patches ** 2, `even spread ${number(1 / selected.patches ** 2)}`, "1 4"]];
  if (selected.thresholds) {
    lines.push([selected.thresholds[0], `expand above ${number(selected.thresholds[0])}`, "8 3"]);
    lines.push([selected.thresholds[1], `drop below ${number(selected.thresholds[1])}`, "3 3"]);
  }
  for (const [value, text, dash] of lines) {
    const fill = text.startsWith("expand") ? COLOURS.expand : text.startsWith("drop") ? COLOURS.drop : "#5a6069";
    svg.append(make("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), stroke: fill, "stroke-dasharray": dash, "data-kind": text.split(" ")[0] + "-line"}));
    labels.push({y: y(value), text, fill});
  }
  data.answers.forEach((answer, n) => {
    const picked = n === state.side;
    curve(svg, answer.layers.map((one) => [at(one.layer), y(one.ratio)]), picked ? "#1b1d21" : "#a3a9b2", picked ? "" : "5 4", picked ? 2 : 1.5);
  });
  for (const one of selected.layers) if (one.action) glyph(svg, one.action, at(one.layer), y(one.ratio));
  for (const one of selected.layers)
    if (selected.right !== null && one.region === selected.right)
      svg.append(make("circle", {cx: at(one.layer), cy: height + 27, r: 3, fill: COLOURS.right}));
  if (selected.right !== null) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height + 34}`);
    labels.push({y: height + 27, text: "hottest is right", fill: COLOURS.right});
  }
  endLabels(svg, labels, height + 40);
}

function drawTimeline() {
  const lanes = data.answers.map((answer, n) => [answer, n]).filter(([answer]) => answer.thresholds);
  const lane = 52, svg = find("timeline-chart"), height = Math.max(1, lanes.length) * lane;
  find("timeline").hidden = !lanes.length;
  frame(svg, height, [], () => 0, "The extension's life, layer by layer");
  lanes.forEach(([answer, n], place) => {
    const top = place * lane, picked = n === state.side;
    svg.append(make("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: top + 35, y2: top + 35, stroke: "#a3a9b2"}));
    svg.append(make("text", {x: WIDTH - RIGHT + 8, y: top + 39, "font-weight": picked ? 700 : 400}, answer.name));
    let start = 0;
    while (start < L) {
      const living = answer.layers[start].extension;
      let end = start;
      while (end + 1 < L && JSON.stringify(answer.layers[end + 1].extension) === JSON.stringify(living)) end++;
      if (living) {
        const x = at(start) - STEP / 2 + 1.5, width = (end - start + 1) * STEP - 3;
        svg.append(make("rect", {x, y: top + 22, width, height: 26, rx: 4, fill: "#f9dcc8", stroke: COLOURS.expand, "data-kind": "life",
          "data-side": n, "data-from": start, "data-to": end, "data-region": living[1]}));
        const tokens = `+${answer.layers[start].extended.length} tokens`;
        const text = width > 170 ? `region ${living[1]}, ${tokens}` : width > 62 ? `region ${living[1]}` : String(living[1]);
        svg.append(make("text", {x: x + width / 2, y: top + 39, "text-anchor": "middle"}, text));
      }
      start = end + 1;
    }
    for (const one of answer.layers) if (one.action) glyph(svg, one.action, at(one.layer), top + 11);
  });
}

function drawWords() {
  const svg = find("word-chart"), height = 150, y = (value) => height - 6 - value * (height - 14);
  frame(svg, height, [0, 0.5, 1], y, "Probability of the answers' first tokens, layer by layer");
  const labels = [];
  data.answers.forEach((answer, n) => data.watched.forEach((text, word) => {
    const stroke = ["#1b1d21", "#0067a6", "#007a5a"][word % 3], picked = n === state.side;
    curve(svg, answer.layers.map((one) => [at(one.layer), y(one.words[word])]), stroke, picked ? "" : "5 4", picked ? 2 : 1.4);
    if (picked) labels.push({y: y(answer.layers[L - 1].words[word]), text: `“${text.length > 14 ? text.slice(0, 13) + "…" : text}”`, fill: stroke});
  }));
  endLabels(svg, labels, height);
}

function drawCharts() {
  drawRatio();
  drawTimeline();
  drawWords();
}

for (const svg of document.querySelectorAll(".chart"))
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    go({layer: Math.floor(((event.clientX - box.left) / box.width * WIDTH - LEFT) / STEP)});
  });
find("layer").addEventListener("input", (event) => go({layer: Number(event.target.value)}));
document.querySelectorAll("input[name=side]").forEach((input, n) => input.addEventListener("change", () => go({side: n})));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "ArrowLeft") go({layer: state.layer - 1});
  else if (event.key === "ArrowRight") go({layer: state.layer + 1});
  else if (event.key === "b") go({side: (state.side + 1) % (last + 1)});
});
document.querySelectorAll("img[data-picture]").forEach((image) => { image.src = find("picture").src; });
window.addEventListener("hashchange", () => { readHash(); show(); });
readHash();
show();
