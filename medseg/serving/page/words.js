// All that the page says, in English and in Chinese, side by side so that none is forgotten.
import { byId, recall, remember } from "./elements.js";

const WORDS = {
  title: ["medseg: outlines in medical photographs", "medseg：医学照片轮廓分割"],
  skip: ["Skip to the pictures", "跳到图片"],
  other_language: ["中文", "English"],
  about: ["Model card", "模型说明"],
  finds: ["Finds {classes} in photographs.", "可在照片中识别：{classes}。"],
  choose: ["Choose pictures", "选择图片"],
  photograph: ["Take a photo", "拍照"],
  drop: ["Drop pictures here, or paste one with Ctrl + V.", "可将图片拖放到此处，或按 Ctrl + V 粘贴。"],
  most: ["Up to {mb} MB and {megapixels} megapixels each.", "每张不超过 {mb} MB、{wan} 万像素。"],
  research_short: ["For research only, no medical device.", "仅供科研，非医疗器械。"],
  research: ["For research only. This is no medical device; do not base a diagnosis or treatment on it.",
    "仅供科研使用。本工具不是医疗器械，不得作为诊断或治疗依据。"],
  privacy: ["Your pictures stay in the memory of this server only while they are worked on. They are not stored, logged or passed on.",
    "图片仅在处理期间存在于本服务器内存中，不存储、不记录，也不向外传送。"],
  documentation: ["Programming interface", "编程接口文档"],

  pictures: ["Pictures", "图片"],
  waiting: ["waiting", "等待中"],
  working: ["working", "处理中"],
  done: ["done", "已完成"],
  refused: ["refused", "未能处理"],
  progress: ["{done} of {all} done.", "已完成 {done} / {all}。"],
  progress_refused: ["{done} of {all} done, {refused} refused.", "已完成 {done} / {all}，{refused} 张未能处理。"],
  busy: ["The server is busy; trying again in {seconds} s.", "服务器繁忙，{seconds} 秒后重试。"],
  ready_now: ["{name}: done.", "{name}：已完成。"],
  refused_now: ["{name}: refused.", "{name}：未能处理。"],
  place: ["{name}, {number} of {all}, {state}", "{name}，第 {number} 张，共 {all} 张，{state}"],
  again: ["Try again", "重试"],
  remove: ["Remove this picture", "移除此图片"],
  clear: ["Remove all", "全部移除"],
  removed: ["Removed.", "已移除。"],

  why_400: ["This picture cannot be read.", "无法读取这张图片。"],
  why_401: ["The server asks for an access token.", "服务器要求提供访问令牌。"],
  why_408: ["The upload took too long.", "上传超时。"],
  why_413: ["This picture is too large.", "图片过大。"],
  why_415: ["This is no picture that the server can read.", "服务器不支持这种图片格式。"],
  why_503: ["The server is not ready, or is stopping.", "服务器尚未就绪或正在停止。"],
  why_unreachable: ["The server cannot be reached.", "无法连接服务器。"],
  why_unreadable: ["This file cannot be opened.", "无法打开该文件。"],
  why_other: ["The server could not answer.", "服务器未能处理该请求。"],
  too_large: ["{mb} MB; the server takes at most {limit} MB.", "大小 {mb} MB，服务器上限为 {limit} MB。"],

  picture_of: ["{name}, with what was found drawn over it: {found}.", "{name}，叠加显示的识别结果：{found}。"],
  nothing: ["nothing", "无"],
  picture_plain: ["{name}, not answered yet", "{name}，尚无结果"],
  not_shown: ["Your browser cannot show this kind of picture, so only the outline is shown.", "浏览器无法显示此格式的图片，仅显示分割结果。"],
  class: ["Class", "类别"],
  pixels: ["Pixels", "像素"],
  percent: ["Per cent", "占比"],
  per_cent: ["{value} %", "{value}%"],
  area: ["mm²", "mm²"],
  confidence: ["Confidence", "置信度"],
  areas: ["Area of each class; a switch shows or hides it", "各类别面积；勾选框控制显示或隐藏"],
  together: ["{name} (classes together)", "{name}（合并类别）"],
  size: ["{width} × {height} pixels, {pixels} in all", "{width} × {height} 像素，共 {pixels}"],
  layers: ["On the picture", "图层"],
  outlines: ["Outlines", "轮廓"],
  confidence_map: ["Confidence map", "置信度图"],
  scale: ["Probability of the class shown: dark is unsure, light is sure", "所示类别的概率：深色为不确定，浅色为确定"],
  opacity_fill: ["Opacity of the fill", "填充不透明度"],
  opacity_confidence: ["Opacity of the confidence map", "置信度图不透明度"],
  spacing: ["Millimetres per pixel, if known", "每像素毫米数（如已知）"],
  spacing_help: ["From a ruler in the picture, say. It is used for all pictures here, and gives areas in mm².",
    "例如由图中标尺得出。适用于此处所有图片，用于计算面积（mm²）。"],
  spacing_wrong: ["Write a number above 0, such as 0.05.", "请输入大于 0 的数值，例如 0.05。"],
  save: ["Save", "保存"],
  save_mask: ["Mask (PNG)", "掩膜（PNG）"],
  save_overlay: ["Picture with outlines", "叠加轮廓的图片"],
  save_labelme: ["labelme JSON", "labelme JSON"],
  save_all: ["All files of all pictures (ZIP)", "全部图片的所有文件（ZIP）"],
  saving: ["Preparing the files …", "正在准备文件……"],
  saved: ["{name} is saved.", "已保存 {name}。"],
  not_saved: ["{name} could not be made; the picture may be too large for this browser.", "无法生成 {name}，图片对该浏览器而言可能过大。"],
  answered: ["Run {run}, network {network}, {backend}: {total} ms, of which {own} ms in the network.",
    "模型 {run}，网络 {network}，{backend}：共 {total} 毫秒，其中网络计算 {own} 毫秒。"],
  digests: ["Weights {weights}, medseg {medseg}. Uncertainty of the whole mask {uncertainty} (0 is sure, 1 is unsure).",
    "权重 {weights}，medseg {medseg}。整体不确定度 {uncertainty}（0 为确定，1 为不确定）。"],

  close: ["Close", "关闭"],
  no_card: ["This model has no model card.", "该模型没有说明卡。"],
  table: ["Table", "表格"],
  token_title: ["Access token", "访问令牌"],
  token_why: ["Whoever runs this server has a token for you. It is kept until you close this tab.", "请向服务器管理者索取令牌。令牌保留至关闭此标签页为止。"],
  token_wrong: ["The server does not know this token.", "服务器不接受此令牌。"],
  token: ["Token", "令牌"],
  enter: ["Continue", "继续"],
  cancel: ["Cancel", "取消"],
};

const LANGUAGES = ["en", "zh-Hans"];
const first = () => recall("medseg-language") || (/^zh\b/i.test(navigator.language) ? "zh-Hans" : "en");
let place = Math.max(0, LANGUAGES.indexOf(first()));

export function say(key, values = {}) {
  return WORDS[key][place].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export const knows = (key) => Object.hasOwn(WORDS, key);
export const listed = (names) => names.join(place ? "、" : ", ");
export const number = (value, options = {}) => new Intl.NumberFormat(LANGUAGES[place], options).format(value);

/** Writes every text of index.html that stands under a key. */
export function translate() {
  document.documentElement.lang = LANGUAGES[place];
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  byId("language").lang = LANGUAGES[1 - place];
}

export function otherLanguage() {
  place = 1 - place;
  remember("medseg-language", LANGUAGES[place]);
}
