"use strict";
// How does a figure fit where it is shown? Drawn at the width there is: panels side by side where
// each has room, else below each other; where there is little, titles break and colour bars lie.
// All lengths are in pixels.

const PANEL = { width: 320, height: 240 };  // a panel's least; the height is that of its plot
const GAP = { x: 100, y: 84 };  // between the plots of two panels, for ticks and titles
const SMALL = 600;  // below this width, texts are fitted too
const PRINTED = 700;  // width of a figure on paper: A4 or letter less the margins
const LOWER = 0.76;  // height of a figure on paper beside that on the screen: two go on a page
const TITLE = 24, BAR = 52;  // from the top to the title's first baseline; height of a lying bar
const LINE = 1.3;  // height of a line of text, in font sizes
const CONFIG = { displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

const pen = document.createElement("canvas").getContext("2d");
const FAMILY = getComputedStyle(document.body).fontFamily;
const figures = [...document.querySelectorAll("figure")];
const waiting = [...figures];
const shown = new Map();  // figure → { data, layout } as the study gave it, and its width now
let printing = false;

// ---- fitting a layout ---------------------------------------------------------------------------

const isAxis = (letter) => (key) => new RegExp(`^${letter}axis\\d*$`).test(key);
const numberOf = (axis) => Number(axis.replace(/\D/g, "") || 1);
const linesIn = (text) => text.split(/<br ?\/?>/).length;

/** Width of all panels together, as far as it is known before drawing. */
function plotWidth({ margin }, width) {
  return width - (margin?.l ?? 80) - (margin?.r ?? 80);
}

/** The panels that stand in one row, from left to right, as { x, y } names of axes; none where a
 * figure has another arrangement. */
function panelsOf(layout) {
  const panels = Object.keys(layout).filter(isAxis("x")).sort((a, b) => numberOf(a) - numberOf(b))
    .map((x) => ({ x, y: `yaxis${(layout[x].anchor || "y").slice(1)}` }));
  const inOneRow = panels.every(({ x, y }) => layout[x].domain && layout[y]?.domain
    && layout[y].domain[0] === 0 && layout[y].domain[1] === 1 && !layout[y].overlaying);
  return inOneRow ? panels : [];
}

/** Where in a grid of `columns` each panel stands, as domains of its axes; rows go down. */
function gridDomains(count, columns, gapX, gapY) {
  const rows = Math.ceil(count / columns);
  const width = (1 - gapX * (columns - 1)) / columns, height = (1 - gapY * (rows - 1)) / rows;
  return Array.from({ length: count }, (_, place) => {
    const left = (place % columns) * (width + gapX);
    const top = 1 - Math.floor(place / columns) * (height + gapY);
    return { x: [left, left + width], y: [Math.max(0, top - height), top] };
  });
}

/** Puts the panels of a row into as many rows as `width` needs; returns the height they take. */
function fold(layout, width) {
  const panels = panelsOf(layout);
  if (panels.length < 2) return PANEL.height;
  const rows = Math.ceil(panels.length / Math.max(1, Math.floor(width / PANEL.width)));
  const height = rows * PANEL.height + (rows - 1) * GAP.y;
  const before = panels.map(({ x }) => layout[x].domain);
  const gapX = Math.max(before[1][0] - before[0][1], GAP.x / plotWidth(layout, width));
  const after = gridDomains(panels.length, Math.ceil(panels.length / rows), gapX, GAP.y / height);
  panels.forEach(({ x, y }, place) => {
    layout[x].domain = after[place].x;
    layout[y].domain = after[place].y;
  });
  for (const note of layout.annotations || []) {  // such as a panel's own title
    const place = before.findIndex(([left, right]) => left <= note.x && note.x <= right);
    if (note.xref !== "paper" || note.yref !== "paper" || place < 0) continue;
    const within = (value, [from, to]) => from + value * (to - from);
    const [left, right] = before[place];
    note.x = within((note.x - left) / (right - left), after[place].x);
    note.y = within(note.y, after[place].y);
  }
  layout.height += height - PANEL.height;
  return height;
}

/** Width of a text of one line without tags. */
function widthOf(text, size, weight = "normal") {
  pen.font = `${weight} ${size}px ${FAMILY}`;
  return pen.measureText(text).width;
}

/** `text` with breaks between words, or within one that is too long, so that no line is wider. */
function broken(text, size, width) {
  const tokens = text.match(/<[^>]*>|&#?\w+;|./gs) || [];
  let used = 0, space = -1, since = 0;  // widths of the line so far, and of it since its last space
  let face = [size];
  tokens.forEach((token, place) => {
    if (token.length > 1 && token[0] === "<") {
      if (/^<br/.test(token)) [used, space, since] = [0, -1, 0];
      if (/^<\/?b>/.test(token)) face = [face[0], token[1] === "/" ? "normal" : "bold"];
      if (/span/.test(token)) face = [Number(/font-size: ?(\d+)px/.exec(token)?.[1] || size)];
      return;
    }
    const wide = widthOf(token[0] === "&" && token.length > 1 ? "m" : token, ...face);
    used += wide;
    since += wide;
    if (token === " ") [space, since] = [place, 0];
    else if (used > width && space >= 0) [tokens[space], used, space] = ["<br>", since, -1];
    else if (used > width) [tokens[place], used, since] = [`<br>${token}`, wide, wide];
  });
  return tokens.join("");
}

/** Breaks the titles of a figure and its axes, and gives them the height they then take. */
function breakTitles(layout, width, height) {
  const size = layout.font?.size || 12, plot = plotWidth(layout, width), title = layout.title;
  if (title?.text) {
    const text = broken(title.text, title.font?.size || 17, width - 24);
    const grown = (linesIn(text) - linesIn(title.text)) * LINE * (title.font?.size || 17);
    layout.title = { ...title, text };
    layout.margin = { ...layout.margin, t: (layout.margin?.t ?? 100) + grown };
    layout.height += grown;
  }
  let below = 0;  // lines added under the plot
  for (const key of Object.keys(layout).filter((name) => isAxis("[xy]")(name))) {
    const axis = layout[key], [from, to] = axis.domain || [0, 1];
    if (!axis.title?.text) continue;
    const room = (to - from) * (key[0] === "x" ? plot : height);
    const text = broken(axis.title.text, axis.title.font?.size || size, room);
    if (key[0] === "x") below = Math.max(below, linesIn(text) - linesIn(axis.title.text));
    layout[key] = { ...axis, title: { ...axis.title, text } };
  }
  const more = below * LINE * size;
  layout.height += more;
  layout.sliders = layout.sliders?.map((slider) => (
    { ...slider, pad: { ...slider.pad, t: (slider.pad?.t || 0) + more } }));
}

/** A colour bar that lies above the plot, where it takes height instead of width. */
function lying(bar) {
  const text = bar?.title?.text?.replace(/<br>/g, " ").trim();
  return {
    ...bar, title: { ...bar?.title, text, side: "top" }, orientation: "h", thickness: 10, ypad: 6,
    x: 0.5, xanchor: "center", len: 1,
    y: 0.99, yanchor: "bottom",  // from y = 1 on, Plotly would move the figure's title
  };
}

/** Lays the colour bars of a figure above its plot, and shrinks texts to their cells. */
function fitColours(data, layout, width) {
  const barred = data.filter((trace) => trace.type === "heatmap" && trace.showscale !== false);
  for (const trace of barred) trace.colorbar = lying(trace.colorbar);
  const axis = layout.coloraxis;
  if (axis) layout.coloraxis = { ...axis, colorbar: lying(axis.colorbar) };
  if (!barred.length && !axis) return;
  layout.margin = { ...layout.margin, t: (layout.margin?.t ?? 100) + BAR };
  layout.height += BAR;
  for (const trace of barred.length ? data.filter((one) => one.mode === "text") : []) {
    const cell = (plotWidth(layout, width) - 36) / new Set(trace.x).size;
    const lines = trace.text.flatMap((text) => text.split("<br>"));
    const widest = Math.max(...lines.map((line) => widthOf(line.replace(/<[^>]*>/g, ""), 12)));
    trace.textfont = { ...trace.textfont, size: Math.max(6, Math.min(12, 12 * cell / widest)) };
  }
}

/** Gives texts beside the outermost points of a line room within the plot. */
function fitTexts(data, layout) {
  const beside = (trace) => [trace.textposition].flat().some((side) => /left|right/.test(side));
  const axes = data.filter(beside).map((trace) => layout[`xaxis${(trace.xaxis || "x").slice(1)}`]);
  for (const axis of new Set(axes.filter((one) => one?.range))) {
    const [from, to] = axis.range, more = 0.12 * (to - from);
    axis.range = [from - more, to + more];
  }
}

/** Fits texts and legend of a figure on a phone, where a finger on a plot scrolls the page. */
function fitSmall(data, layout, width) {
  for (const trace of data) {
    if (trace.name) trace.name = broken(trace.name, layout.font?.size || 12, width - 100);
  }
  fitTexts(data, layout);
  layout.dragmode ??= false;
  layout.legend = { ...layout.legend, maxheight: 0.6 };
  if (layout.legend.y > 1) Object.assign(layout.legend, { x: 0, xanchor: "left" });
}

/** What is drawn at `width`: a copy of what the study gave, fitted, and the height that its panels
 * want. */
function fitted(given, width, visible, scale) {
  const data = given.data.map((trace, place) => (
    visible ? { ...trace, visible: visible[place] } : { ...trace }));
  const layout = structuredClone(given.layout);
  Object.assign(layout, { width, height: (layout.height || 450) * scale, autosize: false });
  layout.uirevision = "kept";
  const height = fold(layout, width) * scale;
  if (width < SMALL || scale < 1) breakTitles(layout, width, height);
  if (width < SMALL) {
    fitColours(data, layout, width);
    fitSmall(data, layout, width);
  }
  const title = layout.title;
  if (title?.yref === "container") title.y = 1 - TITLE / layout.height;
  return { data, layout, height };
}

// ---- drawing ------------------------------------------------------------------------------------

const hasBar = ({ data, layout }) => layout.coloraxis || data.some(({ type }) => type === "heatmap");

/** Draws a figure at `width`, anew or again; zoom, legend and slider stay as the reader left
 * them. */
function draw(figure, width, scale = 1) {
  const plot = figure.querySelector(".plot");
  if (!shown.has(figure)) {
    plot.replaceChildren();  // of a saved page, the picture of what was drawn when it was saved
    plot.className = "plot";
    shown.set(figure, JSON.parse(figure.querySelector("script").textContent));
  }
  const given = shown.get(figure), visible = plot.data?.map((trace) => trace.visible);
  const { data, layout, height } = fitted(given, width, visible, scale);
  plot.layout?.sliders?.forEach(({ active }, place) => { layout.sliders[place].active = active; });
  // Redrawn as it is, Plotly would keep the room of a colour bar that stood, or lay, before.
  if (given.width < SMALL !== width < SMALL && hasBar(given)) Plotly.purge(plot);
  Plotly.react(plot, data, layout, CONFIG);
  settle(plot, height, width < SMALL);
  given.width = width;
  plot.style.minHeight = "";
}

/** Gives the plot the height that legend and slider left too small, and keeps notes on the page. */
function settle(plot, height, small) {
  for (let round = 0; round < 3; round += 1) {
    const full = plot._fullLayout, change = {};
    const above = small && full.showlegend && full.legend?.y > 1 && (full.legend._height || 0);
    const top = above ? TITLE + titleHeight(plot) + above + 12 : 0;
    const short = Math.max(height - full._size.h, 0) + Math.max(top - full.margin.t, 0);
    if (short < 2) break;
    if (top > full.margin.t) change["margin.t"] = top;
    change.height = full.height + short;
    if (full.title.yref === "container") change["title.y"] = 1 - TITLE / change.height;
    Plotly.relayout(plot, change);
  }
  if (small) pullIn(plot);
}

const titleHeight = (plot) => plot.querySelector(".gtitle")?.getBoundingClientRect().height || 0;

/** Shifts annotations that would be cut at the left or right end of the figure. */
function pullIn(plot) {
  const ends = plot.getBoundingClientRect(), change = {};
  for (const note of plot.querySelectorAll(".annotation")) {
    const box = (note.querySelector(".annotation-text-g") || note).getBoundingClientRect();
    const by = Math.max(ends.left + 2 - box.left, 0) - Math.max(box.right - ends.right + 2, 0);
    if (!by) continue;
    const { index } = note.dataset, given = plot.layout.annotations[index];
    const name = `annotations[${index}]`;
    if (given.showarrow === false) change[`${name}.xshift`] = (given.xshift || 0) + by;
    else change[`${name}.ax`] = (given.ax || 0) + by;
  }
  if (Object.keys(change).length) Plotly.relayout(plot, change);
}

/** Draws the next figure. The page ends in one call a figure, each a script of its own: the browser
 * may show and scroll the page between two, and its load event, for which a headless print waits,
 * comes after the last. */
function drawNext() {
  const figure = waiting.shift();
  if (figure && !shown.has(figure)) draw(figure, figure.clientWidth);
}

let settling;
addEventListener("resize", () => {
  clearTimeout(settling);
  settling = setTimeout(() => {
    if (printing) return;
    for (const [figure, { width }] of shown) {
      if (figure.clientWidth !== width) draw(figure, figure.clientWidth);
    }
  }, 100);
});

// ---- print --------------------------------------------------------------------------------------

const closed = [];

addEventListener("beforeprint", () => {
  printing = true;
  closed.push(...document.querySelectorAll("details:not([open])"));
  for (const details of closed) details.open = true;
  for (const figure of figures) {
    draw(figure, PRINTED, LOWER);
    figure.querySelectorAll(".svg-container, .main-svg").forEach(makeScalable);
  }
});

/** On paper narrower than what a figure was drawn for, page.css shrinks it. */
function makeScalable(element) {
  const { width, height } = element.getBoundingClientRect();
  if (element.matches(".main-svg")) element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  else element.style.aspectRatio = `${width} / ${height}`;
}

addEventListener("afterprint", () => {
  printing = false;
  for (const details of closed.splice(0)) details.open = false;
  for (const element of document.querySelectorAll(".svg-container, .main-svg")) {
    element.removeAttribute("viewBox");
    element.style.aspectRatio = "";
  }
  for (const figure of figures) draw(figure, figure.clientWidth);
});
