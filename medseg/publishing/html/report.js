"use strict";
// The cases behind a number, and the pictures of a case. All data lie in this page; nothing is fetched.
(() => {
  const { cases, ...data } = JSON.parse(document.getElementById("data").textContent);
  for (const picture of Object.values(data.pictures)) {
    for (const each of [picture, ...picture.planes]) each.layers = new Map(Object.entries(each.layers));
    for (const plane of picture.planes) plane.apart = new Map(Object.entries(plane.apart));
  }
  const pictures = new Map(Object.entries(data.pictures));  // a Map: a sample may be called "constructor"
  const byId = (id) => document.getElementById(id);
  const at = Object.fromEntries(cases.columns.map((column, place) => [column, place]));
  const REFERENCE = "the reference", PAGE = 100;  // no run is called so: labels are told apart from it
  const COUNTS = {  // a pooled score: [numerator, denominator] of the sums of pixels
    iou: [(s) => s.tp, (s) => s.tp + s.fp + s.fn], recall: [(s) => s.tp, (s) => s.tp + s.fn],
    precision: [(s) => s.tp, (s) => s.tp + s.fp], dice: [(s) => 2 * s.tp, (s) => 2 * s.tp + s.fp + s.fn],
    specificity: [(s) => s.tn, (s) => s.tn + s.fp],
  };
  const higherIsBetter = (metric) => !/^(hd|assd)/.test(metric);
  const make = (tag, properties = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const text = (value, digits = 4) => (value === null ? "–" : value.toFixed(digits));

  // ---- pictures -----------------------------------------------------------------------------------------------------------------
  const image = (source, alt = "") => make("img", { src: source, alt, draggable: false });

  function fillFrame(frame, sample, run) {
    const picture = pictures.get(sample);
    frame.style.aspectRatio = `${picture.w} / ${picture.h}`;
    frame.classList.toggle("bare", !picture.photograph);
    const shown = [picture.photograph, picture.layers.get(run), picture.reference].filter(Boolean);
    frame.replaceChildren(...shown.map((source) => image(source)));
  }

  const whenSeen = "IntersectionObserver" in window && new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      whenSeen.unobserve(entry.target);
      fillFrame(entry.target, entry.target.dataset.sample, entry.target.dataset.run);
    }
  }, { rootMargin: "300px" });

  function prepareFrame(frame, sample, run) {
    Object.assign(frame.dataset, { sample, run });
    if (whenSeen) whenSeen.observe(frame); else fillFrame(frame, sample, run);
  }

  // ---- the viewer ---------------------------------------------------------------------------------------------------------------
  const viewer = byId("viewer"), stage = byId("stage"), canvas = byId("canvas"), range = byId("slice");
  const NOTCH = 60;  // pixels: less than a notch of any mouse's wheel
  let list = [], place = 0, run = "", view = { x: 0, y: 0, scale: 1 }, hidden = new Set(), shownLayers = [];
  let seen = null, wanted = "axial";  // what is on the stage: a photograph, or a plane of a volume; and which plane is asked for
  let slice = 0, drawSlice = () => {};  // of that plane
  const isVolume = () => Boolean(seen.columns);

  function open(samples, sample, label) {
    list = samples.filter((each) => pictures.has(each));
    place = Math.max(0, list.indexOf(sample));
    run = label;
    hidden = new Set(cases.runs.filter((each) => each !== label));
    if (!viewer.open) viewer.showModal();
    show();
    (isVolume() ? range : stage).focus();
  }

  function show() {
    const sample = list[place], picture = pictures.get(sample);
    byId("viewer-name").textContent = `${sample} (${place + 1} of ${list.length})`;
    seen = picture.planes.find((each) => each.name === wanted) || picture;
    canvas.style.width = `${seen.w}px`;
    canvas.style.height = `${seen.h}px`;
    canvas.classList.toggle("bare", !seen.photograph);
    const draws = [], drawn = (source, alt) => (isVolume() ? tile(source, draws) : image(source, alt));
    const order = [...seen.layers, [REFERENCE, seen.reference]];
    const layers = order.map(([name, source]) => Object.assign(drawn(source, name), { hidden: hidden.has(name), className: "layer" }));
    canvas.replaceChildren(...(seen.photograph ? [drawn(seen.photograph, `photograph ${sample}`)] : []), ...layers);
    shownLayers = layers;
    fade();
    showScroller(picture, draws);
    byId("layers").replaceChildren(...order.map(([name], number) => {
      const box = make("input", { type: "checkbox", checked: !hidden.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(name); else hidden.add(name);
        layers[number].hidden = !box.checked;
        if (isVolume()) showBars();
      });
      return make("label", {}, [box, ` ${name}`]);
    }));
    byId("viewer-scores").textContent = scoresOf(sample);
    fit();
  }

  function scoresOf(sample) {
    const rows = cases.rows.filter((row) => row[at.sample_id] === sample && cases.runs[row[at.run]] === run);
    const seed = rows.length && rows[0][at.seed];
    const first = rows.filter((row) => row[at.seed] === seed);
    return first.map((row) => `${cases.names[row[at.name]]}: ` + cases.metrics.map((each) => `${cases.titles[each]} ${text(row[at[each]], 3)}`).join(", ")).join(" · ");
  }

  const fade = () => { for (const layer of shownLayers) layer.style.opacity = byId("opacity").value / 100; };
  const draw = () => {
    canvas.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    canvas.classList.toggle("near", view.scale > 2.5);
  };
  function fit() {
    const { clientWidth: width, clientHeight: height } = stage, scale = Math.min(width / seen.w, height / seen.h);
    view = { scale, x: (width - seen.w * scale) / 2, y: (height - seen.h * scale) / 2 };
    draw();
  }
  function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const scale = Math.min(40, Math.max(0.1, view.scale * factor)), by = scale / view.scale;
    view = { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
    draw();
  }
  const move = (x, y) => { view.x += x; view.y += y; draw(); };
  const step = (by) => { if (list.length) { place = (place + by + list.length) % list.length; show(); } };

  let turned = 0;  // of the wheel, in pixels, since the last slice
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (isVolume() && !event.ctrlKey) {  // with Ctrl, as two fingers on a pad send it, a volume is zoomed too
      turned += Math.max(-NOTCH, Math.min(NOTCH, event.deltaY * (event.deltaMode ? 20 : 1)));
      if (Math.abs(turned) < NOTCH) return;
      goTo(slice - Math.sign(turned));  // downwards to the feet
      turned = 0;
      return;
    }
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  const fingers = new Map();
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); fingers.set(event.pointerId, event); });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((each) => each.pointerId !== event.pointerId);
    if (others.length) {
      const [other] = others, box = stage.getBoundingClientRect();
      const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
      zoom(apart(event) / apart(before), (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
    } else move(event.clientX - before.clientX, event.clientY - before.clientY);
    fingers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => fingers.delete(event.pointerId));
  const listen = (element, arrows) => element.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow") && !arrows) return;
    const keys = {
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": fit, ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0),
      ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60), n: () => step(1), p: () => step(-1),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  listen(stage, true);
  listen(range, false);  // its arrows are slices
  byId("in").addEventListener("click", () => zoom(1.4));
  byId("out").addEventListener("click", () => zoom(1 / 1.4));
  byId("fit").addEventListener("click", fit);
  byId("next").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => step(-1));
  byId("close").addEventListener("click", () => viewer.close());
  byId("opacity").addEventListener("input", fade);
  byId("viewer-legend").replaceChildren(...[...byId("legend").children].map((key) => key.cloneNode(true)));
  window.addEventListener("resize", () => viewer.open && fit());

  // ---- volumes: the slices across an axis are tiles of one sheet; a canvas shows one of them --------------------------------------
  // Not as a background that is shifted: at its edges the browser would mix in the next tile.
  function tile(source, draws) {
    const sheet = image(source), shown = make("canvas");
    const draw = () => {
      if (!sheet.naturalWidth) return;  // not decoded yet: drawn when it is
      const by = Math.round(sheet.naturalWidth / (seen.columns * seen.step[0]));  // layers are `factor` times as large as the image
      const [width, height] = seen.tile.map((side) => side * by), [right, down] = seen.step.map((side) => side * by);
      Object.assign(shown, { width, height });  // which clears it
      const left = (slice % seen.columns) * right, top = Math.floor(slice / seen.columns) * down;
      shown.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
    };
    sheet.addEventListener("load", () => { if (shown.isConnected) draw(); });
    draws.push(draw);
    return shown;
  }

  function showScroller(picture, draws) {
    byId("slices").hidden = !isVolume();
    byId("marks").replaceChildren();
    drawSlice = () => draws.forEach((each) => each());
    if (!isVolume()) return;
    byId("plane").replaceChildren(...picture.planes.map((each) => make("option", { textContent: each.name, selected: each === seen })));
    byId("marks").append(...[...seen.marks].map((mark) => make("b", { textContent: mark })));
    byId("slice-note").textContent = seen.note && `To keep the page small ${seen.note}.`;
    range.max = seen.count - 1;
    slice = seen.start;
    showBars();
  }

  // Of every slice the voxels that differ, the most of any run that is shown.
  const differing = () => {
    const runs = [...seen.apart].filter(([name]) => !hidden.has(name)).map(([, counts]) => counts);
    return Array.from({ length: seen.count }, (_, number) => Math.max(0, ...runs.map((counts) => counts[number])));
  };
  function showBars() {
    const counts = differing(), most = Math.max(1, ...counts);
    byId("apart").replaceChildren(...counts.map((count) => {
      const bar = make("i");
      bar.style.height = `${(100 * count) / most}%`;
      return bar;
    }));
    byId("most-apart").disabled = Math.max(...counts) === 0;
    goTo(slice);
  }
  function goTo(number) {
    slice = Math.max(0, Math.min(seen.count - 1, number));
    range.value = slice;
    const said = `${seen.name} slice ${slice + 1} of ${seen.count}, ${differing()[slice].toLocaleString("en")} voxels differ`;
    byId("slice-name").textContent = `${said}.`;
    range.setAttribute("aria-valuetext", said);
    [...byId("apart").children].forEach((bar, place) => bar.classList.toggle("here", place === slice));
    drawSlice();
  }
  range.addEventListener("input", () => goTo(Number(range.value)));
  byId("plane").addEventListener("change", (event) => { wanted = event.target.value; show(); range.focus(); });
  byId("most-apart").addEventListener("click", () => { const counts = differing(); goTo(counts.indexOf(Math.max(...counts))); });
  byId("apart").addEventListener("click", (event) => {
    const box = byId("apart").getBoundingClientRect();
    goTo(Math.floor(((event.clientX - box.left) / box.width) * seen.count));
  });

  // ---- the cases ----------------------------------------------------------------------------------------------------------------
  const form = byId("filter"), table = byId("case-table"), more = byId("more");
  let found = [], shown = 0, asked = null;  // asked: the classes of the number that was pressed, where they are several
  const option = (value, label = value) => make("option", { value, textContent: label });
  form.elements.run.append(...cases.runs.map((label) => option(label)));
  form.elements.name.append(...(cases.names.length > 1 ? [option("", "several classes")] : []), ...cases.names.map((name) => option(name)));
  form.elements.metric.append(...cases.metrics.map((metric) => option(metric, cases.titles[metric])));

  function list_cases() {
    const { run: label, name, metric, order } = Object.fromEntries(new FormData(form));
    const names = new Set(name ? [name] : asked || cases.names);
    const of = cases.rows.filter((row) => cases.runs[row[at.run]] === label && names.has(cases.names[row[at.name]]));
    const sign = (order === "worst") === higherIsBetter(metric) ? 1 : -1, score = at[metric];
    const value = (row) => (row[score] === null ? Infinity : sign * row[score]);  // what is undefined stands last
    found = of.slice().sort((a, b) => value(a) - value(b) || (a[at.sample_id] < b[at.sample_id] ? -1 : 1));
    shown = 0;
    const heads = ["Picture", "Case", "Group", ...(name ? [] : ["Class"]), ...(seeded() ? ["Seed"] : []), ...cases.metrics.map((each) => cases.titles[each]), "TP", "FP", "FN"];
    table.tHead.replaceChildren(make("tr", {}, heads.map((head) => make("th", { scope: "col", textContent: head }))));
    table.tBodies[0].replaceChildren();
    byId("made-of").textContent = madeOf(of, metric);
    grow();
  }
  const seeded = () => new Set(cases.rows.map((row) => row[at.seed])).size > 1;

  function madeOf(rows, metric) {
    if (!cases.complete) return `${rows.length} of the ${cases.rows.length} rows with the lowest IoU; cases.csv has all, and the number is of all.`;
    const parts = groupsOf(rows), defined = rows.filter((row) => row[at[metric]] !== null).length;
    let said = `${rows.length} rows, ${cases.titles[metric]} defined in ${defined}: mean over images ${text(average(parts.map((part) => mean(part, metric))))}`;
    if (COUNTS[metric]) said += `, pooled ${text(average(parts.map((part) => pooled(part, metric))))}`;
    return said + (parts.length > 1 ? " (means over classes and seeds of each one's own)." : ".");
  }
  // The published number is the mean of each class's and seed's own.
  function groupsOf(rows) {
    const parts = new Map();
    for (const row of rows) {
      const key = `${row[at.name]} ${row[at.seed]}`;
      if (!parts.has(key)) parts.set(key, []);
      parts.get(key).push(row);
    }
    return [...parts.values()];
  }
  const average = (values) => (values.includes(null) || !values.length ? null : values.reduce((sum, value) => sum + value, 0) / values.length);
  const mean = (rows, metric) => average(rows.map((row) => row[at[metric]]).filter((value) => value !== null));
  function pooled(rows, metric) {
    const sums = Object.fromEntries(["tp", "fp", "fn", "tn"].map((key) => [key, rows.reduce((sum, row) => sum + row[at[key]], 0)]));
    const [over, under] = COUNTS[metric].map((each) => each(sums));
    // a class that is predicted nowhere has a precision of 0 where there is a reference
    return under ? over / under : metric === "precision" && sums.fn ? 0 : null;
  }

  function grow() {
    const samples = [...new Set(found.map((row) => row[at.sample_id]))];
    const label = form.elements.run.value, withClass = !form.elements.name.value, withSeed = seeded();
    for (const row of found.slice(shown, shown + PAGE)) {
      const sample = row[at.sample_id], there = pictures.has(sample);
      const button = make("button", { className: "open", textContent: sample, disabled: !there });
      button.addEventListener("click", () => open(samples, sample, label));
      const frame = make("span", { className: "frame small" });
      if (there) prepareFrame(frame, sample, label);
      const cells = [frame, button, row[at.group_id], ...(withClass ? [cases.names[row[at.name]]] : []), ...(withSeed ? [String(row[at.seed])] : [])];
      const numbers = [...cases.metrics.map((metric) => text(row[at[metric]])), ...["tp", "fp", "fn"].map((key) => row[at[key]].toLocaleString("en"))];
      table.tBodies[0].append(make("tr", {}, [...cells, ...numbers].map((content) => make("td", {}, [content]))));
    }
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown >= found.length;
    more.textContent = `Show more (${found.length - shown} left)`;
  }

  form.addEventListener("input", () => { asked = null; list_cases(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  for (const cell of document.querySelectorAll("button.cell")) {
    cell.addEventListener("click", () => {
      const names = JSON.parse(cell.dataset.names);
      for (const key of ["run", "metric"]) form.elements[key].value = cell.dataset[key];
      form.elements.name.value = names.length === 1 ? names[0] : "";
      asked = names;
      list_cases();
      byId("cases").scrollIntoView();
      byId("filter").querySelector("select").focus({ preventScroll: true });
    });
  }
  for (const button of document.querySelectorAll("button.thumb, button.open[data-sample]")) {
    const { sample, run: label } = button.dataset, gallery = [...(button.closest(".gallery") || button.closest("tbody")).querySelectorAll("[data-sample]")];
    button.disabled = !pictures.has(sample);
    button.addEventListener("click", () => open([...new Set(gallery.map((each) => each.dataset.sample))], sample, label));
    const frame = button.querySelector(".frame");
    if (frame && pictures.has(sample)) fillFrame(frame, sample, label);  // at once: a few, and wanted on paper
  }
  list_cases();
})();
