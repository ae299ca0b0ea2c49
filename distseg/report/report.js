"use strict";
// The list of images: sorted, filtered, and opened large. Everything it shows is in #data.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 100;  // rows that are shown at once
const VOID = [0, 0, 0, 0.7];  // over pixels that count nowhere
const COLUMNS = [
  ["id", "image", null], ["fold", "fold", 0], ["score", "score", 4], ["area", "pixels of truth", 0],
  ["predicted", "of prediction", 0], ["disagreement", "models disagree", 3], ["doubt", "label doubted", 3],
];
const state = { tab: "all", sort: "score", up: true, shown: PAGE, rows: [], at: -1 };

function text(value, digits) {
  if (value === null) return "–";
  return digits === null ? String(value) : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function select() {
  const words = $("filter").value.toLowerCase(), fold = $("fold").value, holds = $("holds").value;
  const rows = data.rows.filter((row) =>
    row.id.toLowerCase().includes(words) && (fold === "" || String(row.fold) === fold)
    && (holds === "" || (row.area > 0) === (holds === "object"))
    && (state.tab === "all" || row.doubt >= data.doubted));
  const key = state.sort, sign = state.up ? 1 : -1;
  const place = (value) => (value === null ? Infinity : value);
  rows.sort((a, b) => key === "id"
    ? sign * a.id.localeCompare(b.id, "en", { numeric: true })
    : sign * (place(a[key]) - place(b[key])) || a.id.localeCompare(b.id, "en", { numeric: true }));
  state.rows = rows;
}

function render() {
  select();
  const head = make("tr", {});
  for (const [key, title] of COLUMNS) {
    const mark = state.sort === key ? (state.up ? " ▲" : " ▼") : "";
    const button = make("button", { type: "button", textContent: title + mark });
    button.dataset.key = key;
    button.onclick = () => {
      state.up = state.sort === key ? !state.up : key === "id" || key === "score" || key === "fold";
      state.sort = key;
      render();
    };
    head.append(make("th", { ariaSort: state.sort === key ? (state.up ? "ascending" : "descending") : "none" }, button));
  }
  const body = state.rows.slice(0, state.shown).map((row, index) => {
    const line = make("tr", { tabIndex: 0 });
    line.dataset.id = row.id;
    line.onclick = () => open(index);
    line.onkeydown = (event) => { if (event.key === "Enter") open(index); };
    for (const [key, , digits] of COLUMNS) line.append(make("td", { textContent: text(row[key], digits) }));
    return line;
  });
  $("list").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  $("count").textContent = `${state.rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} images`;
  $("more").hidden = state.rows.length <= state.shown;
  for (const button of document.querySelectorAll("[data-tab]")) {
    button.setAttribute("aria-selected", String(button.dataset.tab === state.tab));
  }
  $("why").hidden = state.tab === "all";
}

function tab(name) {
  state.tab = name;
  [state.sort, state.up] = name === "all" ? ["score", true] : ["doubt", false];
  state.shown = PAGE;
  render();
}

// -- one image, large ------------------------------------------------------------------------------

async function open(index) {
  if (index < 0 || index >= state.rows.length) return;
  state.at = index;
  const row = state.rows[index], pictures = data.pictures[row.id];
  $("title").textContent = row.id;
  $("facts").textContent = `${index + 1} of ${state.rows.length} · score ${text(row.score, 4)} · fold ${row.fold} · `
    + `truth ${text(row.area, 0)} pixels, prediction ${text(row.predicted, 0)} · models disagree ${text(row.disagreement, 3)} · label doubted ${text(row.doubt, 3)}`;
  if (!$("viewer").open) $("viewer").showModal();
  if (!pictures) {
    $("panes").replaceChildren(make("p", { className: "soft", textContent: "This page holds no picture of this image: it keeps those of the worst and of the most doubted labels." }));
    return;
  }
  const found = await Promise.all(["image", "truth", "mask", "prob"].map((key) => pixels(pictures[key])));
  if (state.at !== index || !$("viewer").open) return;  // stepped on meanwhile
  const [image, truth, mask, prob] = found;
  $("panes").replaceChildren(
    pane("image", image, (at) => null), pane("truth", image, (at) => color(truth.data[at])),
    pane("prediction", image, (at) => color(mask.data[at])),
    pane("probability", image, (at) => heat(prob.data[at])),
    pane("error", image, (at) => error(truth.data[at], mask.data[at])));
}

function pixels(url) {
  return new Promise((resolve) => {
    const picture = new Image();
    picture.onload = () => {
      const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      resolve(context.getImageData(0, 0, canvas.width, canvas.height));
    };
    picture.src = url;
  });
}

function pane(title, image, paint) {
  const canvas = make("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d"), out = context.createImageData(image.width, image.height);
  for (let at = 0; at < out.data.length; at += 4) {
    const over = paint(at);
    for (let c = 0; c < 3; c++) out.data[at + c] = over ? image.data[at + c] * (1 - over[3]) + over[c] * over[3] : image.data[at + c];
    out.data[at + 3] = 255;
  }
  context.putImageData(out, 0, 0);
  return make("figure", {}, canvas, make("figcaption", { textContent: title }));
}

function color(code) {
  if (code === 255) return VOID;
  if (data.multiclass) return [...data.colors[code], code ? 0.6 : 0.25];
  const labels = data.colors.filter((_, k) => code >> k & 1);
  if (!labels.length) return null;
  return [...[0, 1, 2].map((c) => labels.reduce((sum, one) => sum + one[c], 0) / labels.length), 0.55];
}

function heat(value) { return [255, 150, 0, 0.85 * value / 255]; }

function error(truth, mask) {
  if (truth === 255) return VOID;
  if (data.multiclass) return truth === mask ? null : [230, 60, 50, 0.75];
  const missed = truth & ~mask, much = mask & ~truth;
  if (!missed && !much) return truth ? [60, 180, 110, 0.45] : null;
  return missed ? [60, 110, 255, 0.75] : [230, 60, 50, 0.75];
}

function step(by) { open(Math.max(0, Math.min(state.rows.length - 1, state.at + by))); }

$("viewer").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1 }[event.key];
  if (by) { event.preventDefault(); step(by); }
});
$("next").onclick = () => step(1);
$("back").onclick = () => step(-1);
$("close").onclick = () => $("viewer").close();
$("viewer").addEventListener("close", () => {
  const line = document.querySelector(`#list tr[data-id="${CSS.escape(state.rows[state.at]?.id ?? "")}"]`);
  if (line) line.focus();
});
$("more").onclick = () => { state.shown += 5 * PAGE; render(); };
for (const name of ["filter", "fold", "holds"]) $(name).addEventListener("input", () => { state.shown = PAGE; render(); });
for (const button of document.querySelectorAll("[data-tab]")) button.onclick = () => tab(button.dataset.tab);
for (const fold of [...new Set(data.rows.map((row) => row.fold))].sort((a, b) => a - b)) {
  $("fold").append(make("option", { value: String(fold), textContent: `fold ${fold}` }));
}
$("browser").hidden = false;
render();
