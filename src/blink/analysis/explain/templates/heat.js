"use strict";
// cividis at even steps: lightness rises with the value, and colour-blind readers see the same order.
const CIVIDIS = [[0,34,78],[18,53,112],[59,73,108],[87,93,109],[112,113,115],[138,134,120],[166,157,117],[197,181,107],[229,207,85],[254,232,56]];

function colour(share) {
  const place = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place)), part = place - low;
  return CIVIDIS[low].map((value, k) => Math.round(value + part * (CIVIDIS[low + 1][k] - value)));
}

// Paint values, row-major, one pixel each, in the square root of their share of the greatest; low ones let the picture
// below show through.
function paint(canvas, values, rows, columns, seeThrough = false) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const most = Math.max(...values, 1e-12);
  values.forEach((value, n) => {
    const share = Math.sqrt(value / most), alpha = seeThrough ? 95 + 130 * share : 255;
    image.data.set([...colour(share), alpha], 4 * n);
  });
  context.putImageData(image, 0, 0);
}

function make(name, attributes = {}, children = []) {
  const svg = ["svg", "g", "rect", "line", "path", "text", "circle", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  for (const child of [].concat(children)) element.append(child);
  return element;
}

const COLOURS = {expand: "#b84a00", keep: "#0067a6", drop: "#1b1d21", right: "#007a5a"};
const DASHES = {expand: "", keep: "7 4", drop: "2 4"};

// A rectangle in fractions of a square of 100, white below so that it shows on light and dark grounds.
function outline(svg, [left, top, width, height], stroke, dash, thick, kind) {
  const inset = 0.8;
  const place = {x: left + inset, y: top + inset, width: Math.max(0, width - 2 * inset), height: Math.max(0, height - 2 * inset)};
  const common = {fill: "none", "vector-effect": "non-scaling-stroke"};
  svg.append(make("rect", {...place, ...common, stroke: "#fff", "stroke-width": thick + 2.5}));
  svg.append(make("rect", {...place, ...common, stroke, "stroke-width": thick, "stroke-dasharray": dash, "data-kind": kind}));
}

// Regions end at the edges of visual tokens: `cuts` are those of their rows and of their columns, in fractions.
function cell(region, {patches, cuts: [rows, columns]}) {
  const row = Math.floor(region / patches), column = region % patches;
  const [top, bottom, left, right] = [rows[row], rows[row + 1], columns[column], columns[column + 1]].map((cut) => 100 * cut);
  return [left, top, right - left, bottom - top];
}
