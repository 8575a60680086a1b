// medseg serve: pictures in, outlines and areas out. This file holds what is chosen and ties the others together.
import { askModel, Refusal, segment, setTokenPrompt } from "./asking.js";
import { askForToken, listenToButtons, showCard } from "./dialogs.js";
import { photograph, reduced } from "./drawing.js";
import { byId } from "./elements.js";
import { keepSpacing, recallSpacing, showNumbers } from "./numbers.js";
import { nameStage, seen, showLayers, showModel, showPanel, whyOf } from "./panel.js";
import { readPng } from "./png.js";
import { Queue } from "./queue.js";
import { bytesOf, labelmeFile, maskFile, overlayFile, save, saveAll } from "./saving.js";
import { drawScale, fade, show } from "./showing.js";
import { addThumb, listenToKeys, setThumbImage, showStrip } from "./strip.js";
import { number, otherLanguage, say, translate } from "./words.js";

const MB = 1e6, THUMB_PX = 192;
const opacity = { fill: 40, map: 85 };  // a map is read by its colours, so that it covers more
const queue = new Queue(answerOf, changed);
let model = null, chosen = null, shown = null, turn = 0, told = null;

// ---- pictures in

async function add(files) {
  const items = files.map((file) => ({ file, answer: null, refusal: null }));
  for (const item of items) {
    addThumb(item, choose);
    queue.add(item);
  }
  if (items.length) choose(items[0]);
  for (const item of items) await thumbnail(item);
}

async function thumbnail(item) {
  const bitmap = await photograph(item.file);
  if (!bitmap) return;
  reduced(bitmap, THUMB_PX).picture.toBlob((blob) => {
    if (blob && queue.items.includes(item)) setThumbImage(item, item.url = URL.createObjectURL(blob));
  }, "image/jpeg");
  bitmap.close();
}

/** The server's answer with its PNGs as bytes, a quarter smaller than their text. */
async function answerOf({ file }, signal) {
  const limit = model?.limits.bytes ?? Infinity;
  if (file.size > limit) throw new Refusal(413, () => say("too_large", { mb: number(file.size / MB), limit: number(limit / MB) }));
  await file.slice(0, 1).arrayBuffer().catch(() => { throw new Refusal("unreadable"); });
  const { mask_png, confidence_png, ...answer } = await segment(file, signal);
  learn();
  return { ...answer, mask: bytesOf(mask_png), confidence: bytesOf(confidence_png) };
}

function remove(items) {
  const place = queue.items.indexOf(items[0]);
  for (const item of items) {
    queue.remove(item);
    item.thumb.remove();
    if (item.url) URL.revokeObjectURL(item.url);
  }
  choose(queue.items[Math.min(place, queue.items.length - 1)] ?? null);
  tell("removed");
  if (!document.activeElement?.offsetParent) (chosen?.thumb ?? byId("choose")).focus();  // what had the focus is gone
}

// ---- what is on the screen

async function choose(item) {
  const mine = ++turn;
  if (item !== chosen) shown = null;
  chosen = item;
  showAll();
  draw();
  if (!item) return;
  item.thumb.scrollIntoView({ block: "nearest", inline: "nearest" });
  byId("picture").ariaBusy = "true";
  const loaded = await load(item);
  if (turn !== mine) return;
  shown = loaded;
  draw();
  byId("picture").ariaBusy = "false";
}

async function load({ file, answer }) {
  const bitmap = await photograph(file), found = bitmap && reduced(bitmap);
  bitmap?.close();
  const [ids, confidence] = answer ? await Promise.all([answer.mask, answer.confidence].map(readPng)) : [null, null];
  const size = ids ?? found, fits = found && found.width === size.width && found.height === size.height;
  return { photo: fits ? found.picture : null, size, ids, confidence, unseen: Boolean(ids) && !fits };
}

const mode = () => (byId("map").checked ? "map" : "fill");
const viewOf = ({ answer }) => ({ classes: answer ? seen(answer) : [], outlines: byId("outlines").checked, map: byId("map").checked,
  opacity: opacity[mode()] });

function draw() {
  const here = Boolean(shown?.size);
  byId("picture").hidden = Boolean(shown) && !here;
  byId("stage").style.visibility = here ? "visible" : "hidden";  // never another picture's below this one's name
  byId("note").textContent = shown?.unseen ? say("not_shown") : "";
  if (here) show(shown, viewOf(chosen));
}

function toggled() {
  nameStage(chosen.file.name, chosen.answer);
  draw();
}

/** Of the queue. Only what has changed is written again, so that nobody's focus is lost. */
function changed(item) {
  if (item?.state === "done") tell("ready_now", { name: item.file.name });
  if (item?.state === "refused") tell("refused_now", { name: item.file.name });
  if (!item || item.state === "waiting" || queue.items.length > 1) progress();
  showBars();
  if (item && item === chosen) (item.state === "done" ? choose : (each) => showPanel(each, toggled))(item);
}

function tell(key, values) {
  told = [key, values];
  byId("status").textContent = say(key, values);
}

function progress() {
  const all = queue.items.length, done = queue.count("done"), refused = queue.count("refused");
  if (queue.wait_s) tell("busy", { seconds: number(queue.wait_s) });
  else if (all) tell(refused ? "progress_refused" : "progress", { done: number(done), all: number(all), refused: number(refused) });
}

function showBars() {
  document.body.classList.toggle("busy", queue.items.length > 0);
  byId("work").hidden = !chosen;
  byId("save-all").hidden = queue.count("done") === 0;
  byId("clear").hidden = queue.items.length < 2;
  showStrip(queue.items, chosen);
}

function showAll() {
  showBars();
  showLayers(mode(), opacity[mode()]);
  if (chosen) showPanel(chosen, toggled);
}

// ---- files out

async function keep(name, made) {
  tell("saving");
  try { tell("saved", { name: await made() }); } catch { tell("not_saved", { name }); }
}

const savers = {
  "save-mask": async () => save(maskFile(chosen)),
  "save-labelme": async () => save(await labelmeFile(chosen)),
  "save-overlay": async () => save(await overlayFile(chosen, { ...viewOf(chosen), opacity: opacity.fill })),
  "save-all": () => saveAll(queue.items.filter(({ state }) => state === "done"), (item) => ({ ...viewOf(item), opacity: opacity.fill })),
};

// ---- what the user does

const on = (id, kind, act) => byId(id).addEventListener(kind, act);

function listenToFiles() {
  for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
    on(button, "click", () => byId(input).click());
    on(input, "change", ({ target }) => { add([...target.files]); target.value = ""; });
  }
  document.addEventListener("paste", ({ clipboardData }) => add([...clipboardData.files]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) document.body.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add([...event.dataTransfer.files]);
  });
}

function listen() {
  listenToFiles();
  listenToButtons();
  listenToKeys(() => queue.items, () => chosen, choose, (item) => remove([item]));
  on("language", "click", () => { otherLanguage(); render(); });
  on("about", "click", () => learn().then(() => showCard(model)));
  on("again", "click", () => { queue.again(chosen); chosen.thumb.focus(); });
  on("remove", "click", () => remove([chosen]));
  on("clear", "click", () => remove([...queue.items]));
  on("outlines", "change", draw);
  on("map", "change", () => { showLayers(mode(), opacity[mode()]); draw(); });
  on("opacity", "input", ({ target }) => { opacity[mode()] = Number(target.value); if (chosen) fade(viewOf(chosen)); });
  on("spacing", "input", () => { keepSpacing(); if (chosen?.answer) showNumbers(chosen.answer, toggled); });
  for (const [id, made] of Object.entries(savers)) on(id, "click", () => keep(byId(id).textContent, made));
  let last = 0;
  new ResizeObserver(([{ contentRect: { width } }]) => {
    if (width !== last) requestAnimationFrame(draw);
    last = width;
  }).observe(byId("result"));
}

function render() {
  translate();
  showModel(model);
  showAll();
  draw();
  if (told) tell(...told);
}

/** What is served; asked again where it could not be told, for want of a token, say. */
async function learn() {
  model ??= await askModel().catch((refusal) => { tell(whyOf(refusal.status)); return null; });
  showModel(model);
}

function start() {
  setTokenPrompt(askForToken);
  listen();
  recallSpacing();
  keepSpacing();
  drawScale();
  render();
  learn();
}

start();
