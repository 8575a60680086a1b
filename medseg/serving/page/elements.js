// The few things that every other file needs of the document.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A browser may forbid storage altogether; the page then forgets when it is closed or loaded again, and works.
const meanwhile = new Map();

export function remember(key, value) {
  meanwhile.set(key, value);
  try { sessionStorage.setItem(key, value); } catch { /* forbidden */ }
}

export function recall(key) {
  try { return sessionStorage.getItem(key) ?? meanwhile.get(key) ?? ""; } catch { return meanwhile.get(key) ?? ""; }
}
